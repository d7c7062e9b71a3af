"""How a network is trained: `probe` fits a head on frozen features, `finetune` goes on from it with all layers."""
