"""Environments, which answer completions."""
