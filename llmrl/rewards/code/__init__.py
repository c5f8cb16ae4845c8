"""Verifying programs by their tests, run in the sandbox."""
