"""Changes in place: a call's arguments that the other process has changed are changed here in the same way."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from types import SimpleNamespace
from typing import Any

CHANGEABLE = (list, dict, set, bytearray, tuple, deque, SimpleNamespace)
ARRAYS = (("numpy", "ndarray"), ("array", "array"))
"""Types of libraries that need not be loaded, with the same attribute for all of their items."""


def may_change(value: Any) -> bool:
    """Return whether a function could change the value, or a part of it, in place."""
    return isinstance(value, CHANGEABLE) or _is_array(value)


def changed(old: Any, new: Any) -> Any:
    """Make `old` itself equal to `new` as deep as their types agree, and return it; otherwise return `new`."""
    if isinstance(old, list) and type(new) is list:
        list.__setitem__(old, slice(None), _items(old, new))
    elif isinstance(old, dict) and isinstance(new, dict):
        base: Any = OrderedDict if isinstance(old, OrderedDict) else dict
        kept = {key: changed(old[key], now) if dict.__contains__(old, key) else now for key, now in new.items()}
        base.clear(old)
        base.update(old, kept)
    elif isinstance(old, set) and type(new) is set:
        set.clear(old)
        set.update(old, new)
    elif isinstance(old, bytearray) and type(new) is bytearray:
        bytearray.__setitem__(old, slice(None), new)
    elif isinstance(old, deque) and type(new) is deque and old.maxlen == new.maxlen:
        items = _items(list(old), list(new))
        deque.clear(old)
        deque.extend(old, items)
    elif type(old) is SimpleNamespace is type(new):
        changed(vars(old), vars(new))
    elif isinstance(old, tuple) and type(old) is type(new) and len(old) == len(new):
        return tuple.__new__(type(old), _items(list(old), list(new)))
    elif _is_array(old) and type(new) is type(old):
        return _refilled(old, new)
    else:
        return new
    return old


def _items(old: list, new: list) -> list:
    return [changed(before, now) for before, now in zip(old, new, strict=False)] + new[len(old) :]


def _is_array(value: Any) -> bool:
    return any(isinstance(value, getattr(sys.modules.get(module), name, ())) for module, name in ARRAYS)


def _refilled(old: Any, new: Any) -> Any:
    if getattr(old, "shape", None) != getattr(new, "shape", None) or getattr(old, "dtype", 0) != getattr(
        new, "dtype", 0
    ):
        return new
    old[... if hasattr(old, "shape") else slice(None)] = new
    return old
