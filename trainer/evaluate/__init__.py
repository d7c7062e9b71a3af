"""What a classifier's answers on held-out photos say: `metrics` from probabilities, `model` from an exported file."""
