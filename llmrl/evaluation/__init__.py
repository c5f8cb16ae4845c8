"""Metrics of a trained policy on held-out prompts."""
