"""The connection between two processes that use each other's objects.

One process asks and the other answers. While the other works on its answer it may ask back, so calls nest as in one
program. Plain data is copied (see wire). Any other object stays with its owner, and the other process has a Remote of
it. If a call changes an argument in place, the caller's object is changed too.

    ["ask", operation, [argument, ...], {name: argument}]
    ["answer", value, [[place, argument as it is now], ...]]      or      ["raised", exception (see raising)]
"""

from __future__ import annotations

import socket
from _thread import RLock  # an import of threading would make every program's start slower
from collections.abc import Callable
from typing import Any

import changes
import raising
import wire
from remote_objects import STAND_INS, Lent, Remote, sort


class Gone(BaseException):
    """The other process has ended or sent an invalid message, so it can be asked nothing more."""


class Connection:
    """This process's end of the channel to the other process.

    operate(operation, args, kwargs): does an operation that the other process asks for. lends(value): says whether the
    other process may have a Remote of `value`, which is no plain data. hides(error): says whether the other process may
    know no more of an exception than that it is an AssertionError. settle(): tells the other process what else has
    happened here; it is called before each question and each answer. remote: what stands here for most objects.
    """

    def __init__(
        self,
        channel: socket.socket,
        *,
        operate: Callable[[str, list[Any], dict[str, Any]], Any],
        lends: Callable[[Any], bool],
        hides: Callable[[BaseException], bool] = lambda error: False,
        settle: Callable[[], object] = lambda: None,
        remote: type[Remote] = Remote,
    ):
        self.gone = False
        self.questions = 0
        self._socket, self._operate, self._lends, self._hides = channel, operate, lends, hides
        self._settle, self._settling = settle, False
        self._stand_ins = {**STAND_INS, "mine": remote}
        self._lent: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # keys are ids, which stay valid because _lent keeps the objects
        self._remotes: dict[int, Any] = {}
        self._lock = RLock()
        self._idle = False

    def ask(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Ask for an operation; returns the answer or raises the other process's exception, or Gone if it has ended."""
        self._settle_once()
        question = ["ask", operation, [self._encode(one) for one in args]]
        packed = wire.pack([*question, {name: self._encode(one) for name, one in kwargs.items()}])
        if self._idle:
            raise RuntimeError("the other side waits for nothing")
        with self._lock:
            self.questions += 1
            self._send(packed)
            while True:
                match self._receive():
                    case ["ask", str(asked), list(positional), dict(named)]:
                        self._answer(asked, positional, named)
                    case ["answer", value, list(different)]:
                        self._change(args, kwargs, different)
                        return self._decode(value)
                    case ["raised", error]:
                        error = self._decode(error)
                        if not isinstance(error, BaseException):
                            self._lose("not an exception")
                        raise raising.raised(error, operation)
                    case _:
                        self._lose("not a message")

    def serve(self) -> None:
        """Answer questions until the other process has ended."""
        while True:
            self._idle = True
            try:
                message = self._receive()
            except Gone:
                return
            self._idle = False
            match message:
                case ["ask", str(asked), list(positional), dict(named)]:
                    self._answer(asked, positional, named)
                case _:
                    return

    def become(self, remote: Remote, kind: type[Remote]) -> Remote:
        """Return what stands for a Remote's object from now on, of this kind."""
        self._remotes[remote._number] = made = kind(self, remote._number)
        return made

    def lent(self, value: Any) -> bool:
        """Return whether the other process has a Remote of this very object."""
        return id(value) in self._numbers

    def _answer(self, operation: str, positional: list[Any], named: dict[str, Any]) -> None:
        args = [self._decode(one) for one in positional]
        kwargs = {name: self._decode(one) for name, one in named.items()}
        places = {**dict(enumerate(args)), **kwargs}
        try:
            before = {place: self._encode(one) for place, one in places.items() if changes.may_change(one)}
            try:
                value = self._operate(operation, args, kwargs)
            finally:
                self._settle_once()
            now = {place: self._encode(places[place]) for place in before}
            different = [[place, data] for place, data in now.items() if data != before[place]]
            packed = wire.pack(["answer", self._encode(value), different])
        except Gone:
            raise
        except BaseException as error:
            packed = self._packed_error(AssertionError() if self._hides(error) else error)
        self._send(packed)

    def _settle_once(self) -> None:
        """Settle, unless this is a question that settling itself asks."""
        if self._settling or self._idle:
            return
        self._settling = True
        try:
            self._settle()
        finally:
            self._settling = False

    def _packed_error(self, error: BaseException) -> bytes:
        try:
            return wire.pack(["raised", self._encode(error)])
        except Exception:  # it holds more than can be sent, or its class has methods of its own
            name, text = raising.described(error)
            return wire.pack(["raised", {"error": [{"type": name}, [text], text, {}, None, None]}])

    def _change(self, args: tuple[Any, ...], kwargs: dict[str, Any], different: list[Any]) -> None:
        places = {**dict(enumerate(args)), **kwargs}
        for change in different:
            match change:
                case [int() | str() as place, data] if place in places:
                    changes.changed(places[place], self._decode(data))
                case _:
                    self._lose("not a change")

    def _encode(self, value: Any) -> Any:
        return self._reference(value.value) if type(value) is Lent else wire.encode(value, self._reference)

    def _decode(self, data: Any) -> Any:
        try:
            return wire.decode(data, self._referred)
        except wire.WireError as error:
            self._lose(str(error))

    def _reference(self, value: Any) -> dict[str, Any]:
        remote = value if isinstance(value, Remote) else raising.original(value)
        if remote is not None:
            return {"yours": remote._number}
        if isinstance(value, BaseException):
            return {"error": raising.encoded(value, self._encode, self._lend)}
        if not self._lends(value):
            raise wire.WireError(f"a {type(value).__name__} cannot be sent to another process")
        return self._lend(value)

    def _lend(self, value: Any) -> dict[str, Any]:
        number = self._numbers.setdefault(id(value), len(self._numbers))
        self._lent[number] = value
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"class": [number, value.__name__, [self._encode(base) for base in raising.bases(value)]]}
        return {sort(value): number}

    def _referred(self, tag: str, body: Any) -> Any:
        if tag == "yours":
            return self._lent[body]
        if tag == "error":
            return raising.decoded(body, self._decode)
        number, *described = body if type(body) is list else [body]
        if type(number) is not int:
            raise TypeError("expected a number")
        if number not in self._remotes:
            make = self._stand_in if tag == "class" else self._stand_ins[tag]
            self._remotes[number] = make(self, number, *described)
        return self._remotes[number]

    def _stand_in(self, connection: Connection, number: int, name: str, bases: list[Any]) -> Any:
        return raising.stand_in(name, [self._decode(base) for base in bases], Remote(connection, number))

    def _send(self, packed: bytes) -> None:
        if self.gone:
            raise Gone("the other side has ended")
        try:
            wire.send(self._socket, packed)
        except OSError as error:
            self._lose(str(error))

    def _receive(self) -> Any:
        try:
            return wire.receive(self._socket)
        except (OSError, EOFError, wire.WireError) as error:
            self._lose(str(error))

    def _lose(self, reason: str) -> Any:
        self.gone = True
        raise Gone(reason)
