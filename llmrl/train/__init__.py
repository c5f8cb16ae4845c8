"""Engines, the training step, the loop, checkpoints."""
