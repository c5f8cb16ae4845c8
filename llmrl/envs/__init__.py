"""Environments: what answers a completion."""
