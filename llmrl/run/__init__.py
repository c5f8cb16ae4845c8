"""A run: its stages, one after the other, from recipe to trained model."""
