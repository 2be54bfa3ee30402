"""Learning: a compiled Gymnasium environment (no Ray), the network, training with RLlib, checkpoints."""
