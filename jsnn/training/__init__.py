"""Training: one step for ANN and SNN, evaluation, optimisers, checkpoints; on all devices and processes."""
