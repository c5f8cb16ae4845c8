"""The inside of a host process: foreign worlds, each with random streams of its own."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import connection
from typing import Any, Protocol

import numpy as np
from numpy.random.mtrand import set_bit_generator

from llmrl.envs.world import Outcome
from llmrl.spawned import described, settle

Call = tuple[int, int, str, Any]
"""The call's number, its world's number, `reset`, `act` or `close`, and what is given."""
Answer = tuple[int, str, Any]
"""The call's number, `returned`, `invalid` or `crash`, and the outcome or a message."""


class Foreign(Protocol):
    """A world that lives in a host process: plain calls, which may block, draw from `random` and numpy, or crash.

    It may have a method `close()`, which is called once.
    """

    def reset(self, seed: int) -> Outcome: ...

    def act(self, action: str) -> Outcome: ...


class Resident:
    """A foreign world in its host, with streams of its own in place of those of `random` and of numpy.

    They begin with the episode's seed and move on in the world's calls alone, so an episode is the same alone
    and beside others.
    """

    def __init__(self, make: Callable[..., Foreign], settings: Mapping[str, Any]):
        self._make, self._settings = make, settings
        self._world: Foreign | None = None
        self._stream, self._bits = random.Random(0).getstate(), np.random.MT19937(0)

    def reset(self, seed: int) -> Outcome:
        self._stream, self._bits = random.Random(seed).getstate(), np.random.MT19937(seed)
        with self._streams():
            self._world = self._make(**self._settings)
            return _an_outcome(self._world.reset(seed), "reset")

    def act(self, action: str) -> Outcome:
        assert self._world is not None
        with self._streams():
            return _an_outcome(self._world.act(action), "act")

    def close(self) -> None:
        close = getattr(self._world, "close", None)
        if close is not None:
            with self._streams():
                close()

    @contextlib.contextmanager
    def _streams(self) -> Iterator[None]:
        random.setstate(self._stream)
        set_bit_generator(self._bits)
        try:
            yield
        finally:
            self._stream = random.getstate()


def serve(pipe: connection.Connection) -> None:
    """Answer calls in their order, each as soon as it is done, so that the oldest without an answer is under way."""
    settle()
    residents: dict[int, Resident] = {}
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"ready")
        while True:
            for call in pickle.loads(pipe.recv_bytes()):
                pipe.send_bytes(_answered(residents, call))


def _answered(residents: dict[int, Resident], call: Call) -> bytes:
    """The pickled answer to a call; whatever a world raises is an answer too."""
    number, world, kind, given = call
    try:
        if kind == "reset":
            make, settings, seed = pickle.loads(given)
            residents[world] = Resident(make, settings)
            outcome = residents[world].reset(seed)
        elif kind == "act":
            outcome = residents[world].act(given)
        else:
            outcome = None
            if world in residents:
                residents.pop(world).close()
        return pickle.dumps((number, "returned", outcome))
    except ValueError as error:
        return pickle.dumps((number, "invalid", described(error)))
    except BaseException as error:
        return pickle.dumps((number, "crash", described(error)))


def _an_outcome(given: Any, method: str) -> Outcome:
    if not isinstance(given, Outcome):
        raise ValueError(f"{method} returned {type(given).__name__}, expected an Outcome")
    return given
