"""Reinforcement-learning post-training of language models from one recipe file."""

__version__ = "0.1.0"
