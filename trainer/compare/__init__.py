"""`trainer compare`: which of several finished runs is better, by what they answered for the same test photos."""
