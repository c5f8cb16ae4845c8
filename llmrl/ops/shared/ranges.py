"""Ranges of settings: a value outside is a ValueError that names the setting."""

from __future__ import annotations


def refuse_negative(**settings: float) -> None:
    """Raises ValueError for a setting below 0."""
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"{name}: {value} is not valid, expected a number of at least 0")


def require_positive(**settings: float) -> None:
    """Raises ValueError for a setting that is not above 0."""
    for name, value in settings.items():
        if value <= 0:
            raise ValueError(f"{name}: {value} is not valid, expected a number above 0")


def require_fraction(**settings: float) -> None:
    """Raises ValueError for a setting outside [0, 1]."""
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: {value} is not valid, expected a number from 0 to 1")


def require_range(low: float, high: float) -> None:
    """Raises ValueError for a low that is not below high."""
    if not low < high:
        raise ValueError(f"low: {low} is not valid, expected a number below high = {high}")
