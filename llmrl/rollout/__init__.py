"""Samplers and the collection of scored groups."""
