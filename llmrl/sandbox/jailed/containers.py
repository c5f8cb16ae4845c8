"""Containers that both processes have: what one process changes in place is changed in the other's counterpart.

A container that is sent has a number beside its content, {"shared": [number, changed, content]}, by which the receiver
finds its counterpart; so a container that comes back is the one that was sent. Before each question and each answer,
the containers that differ from what was last exchanged are sent again. Each process remembers only so many; a container
that it has forgotten arrives as a copy.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

MAX_ITEMS = 2**14
OWN_WEIGHT = 8
"""How many items a container itself counts for, so that empty ones are bounded too."""

KINDS = (list, dict, set, bytearray, deque, SimpleNamespace)
ARRAYS = (("numpy", "ndarray"), ("array", "array"))
"""Types of libraries that need not be loaded."""


class Shared:
    """A container that both processes have. state: its items at the last exchange, None if that is not known."""

    __slots__ = ("__weakref__", "number", "state", "value", "weight")

    def __init__(self, number: int, value: Any):
        self.number, self.value, self.state, self.weight = number, value, None, 0


UNUSED = sys.getrefcount(Shared(0, []).value)
"""The count of references to a container that nothing but its Shared refers to."""


class Containers:
    """The containers that this process shares with the other. Its own numbers are not negative, the other's are."""

    def __init__(self):
        self._by_number: weakref.WeakValueDictionary[int, Shared] = weakref.WeakValueDictionary()
        self._by_id: weakref.WeakValueDictionary[int, Shared] = weakref.WeakValueDictionary()
        self._recent: dict[Shared, None] = {}
        self._weight = self._count = 0
        self._exchanged: list[Shared] = []

    def sent(self, value: Any, content: Any) -> dict[str, Any]:
        """Return the data of a container for a message."""
        shared = self._by_id.get(id(value)) or self._new(self._count, value)
        before, shared.state = shared.state, _state(value)
        self._exchanged.append(shared)
        return {"shared": [shared.number, not _same(before, shared.state), content]}

    def arrived(self, number: Any, changed: Any, content: Any) -> Any:
        """Return this process's counterpart of a container in a message, after the change that the message tells."""
        if type(number) is not int or type(changed) is not bool or not _is_container(content):
            raise TypeError("expected a container")
        shared = self._by_number.get(~number)
        if shared is None:
            shared = self._new(~number, content)
        elif changed and not refilled(shared.value, content):
            self._by_id.pop(id(shared.value), None)
            shared = self._new(~number, content)
        shared.state = _state(shared.value)
        self._exchanged.append(shared)
        return shared.value

    def exchanged(self) -> list[Shared]:
        """Return what the last message held, and remember the latest; call it once per message.

        The result keeps those alive that are too large to be remembered, while a call that was given them goes on.
        """
        exchanged, self._exchanged = self._exchanged, []
        for shared in exchanged:
            self._forget(shared)
            shared.weight = OWN_WEIGHT + _size(shared.state)
            if shared.weight <= MAX_ITEMS:
                self._recent[shared] = None
                self._weight += shared.weight
        while self._weight > MAX_ITEMS:
            self._forget(next(iter(self._recent)))
        return exchanged

    def lost(self) -> None:
        """Take note that the message in the making is not sent."""
        for shared in self._exchanged:
            shared.state = None

    def changed(self, given: Iterable[Shared] = ()) -> list[Any]:
        """Return the containers that the other process has to be told; `given`: some that may not be remembered."""
        for shared in list(self._recent):
            if sys.getrefcount(shared.value) == UNUSED:  # nobody can change it or see a change
                self._forget(shared)
        found = [*self._recent, *(shared for shared in given if shared not in self._recent)]
        return [shared.value for shared in found if not _same(shared.state, _state(shared.value))]

    def forget(self, value: Any) -> None:
        """Stop sharing a container."""
        shared = self._by_id.pop(id(value), None)
        if shared is not None:
            self._by_number.pop(shared.number, None)
            self._forget(shared)

    def _forget(self, shared: Shared) -> None:
        if shared in self._recent:
            del self._recent[shared]
            self._weight -= shared.weight

    def _new(self, number: int, value: Any) -> Shared:
        self._count += number >= 0
        shared = Shared(number, value)
        self._by_number[number] = self._by_id[id(value)] = shared
        return shared


def refilled(old: Any, new: Any) -> bool:
    """Give a container the items of another one; returns False, and changes nothing, if their types do not agree."""
    if isinstance(old, list) and type(new) is list:
        list.__setitem__(old, slice(None), new)
    elif isinstance(old, dict) and isinstance(new, dict):
        base: Any = OrderedDict if isinstance(old, OrderedDict) else dict
        base.clear(old)
        base.update(old, new)
    elif isinstance(old, set) and type(new) is set:
        set.clear(old)
        set.update(old, new)
    elif isinstance(old, bytearray) and type(new) is bytearray:
        bytearray.__setitem__(old, slice(None), new)
    elif isinstance(old, deque) and type(new) is deque and old.maxlen == new.maxlen:
        deque.clear(old)
        deque.extend(old, new)
    elif isinstance(old, SimpleNamespace) and type(new) is SimpleNamespace:
        refilled(vars(old), vars(new))
    elif _is_array(old) and type(new) is type(old) and _form(old) == _form(new):
        array: Any = old
        array[... if hasattr(array, "shape") else slice(None)] = new
    else:
        return False
    return True


def _form(array: Any) -> tuple[Any, ...]:
    flags = getattr(array, "flags", None)
    return getattr(array, "shape", None), getattr(array, "dtype", None), flags is None or flags.writeable


def _is_container(value: Any) -> Any:
    return isinstance(value, KINDS) or _is_array(value)


def _is_array(value: Any) -> Any:
    return any(isinstance(value, getattr(sys.modules.get(module), name, ())) for module, name in ARRAYS)


def _state(value: Any) -> Any:
    """Return a container's items, or an array's bytes: what differs after any change in place.

    Nested containers have states of their own.
    """
    if isinstance(value, list):
        return list(list.__iter__(value))
    if isinstance(value, dict):
        base: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        return [*base.keys(value), *base.values(value)]
    if isinstance(value, set):
        return list(set.__iter__(value))
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, deque):
        return list(deque.__iter__(value))
    if isinstance(value, SimpleNamespace):
        return _state(vars(value))
    if hasattr(value, "dtype") and value.dtype.kind == "O":
        return list(value.flat)
    return value.tobytes()


def _same(one: Any, other: Any) -> bool:
    """Return whether two states have the very same items, which is found without a use of the items."""
    if type(one) is not list or type(other) is not list:
        return type(one) is type(other) and one == other
    return len(one) == len(other) and all(map(operator.is_, one, other))


def _size(state: Any) -> int:
    return len(state) if type(state) is list else len(state) // 8
