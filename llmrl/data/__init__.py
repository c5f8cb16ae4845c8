"""Prompts: where rows come from, how they are rendered, in which order they are consumed."""
