"""The connection between two processes that use each other's objects.

One process asks and the other answers. While the other works on its answer it may ask back, so calls nest as in one
program. Plain data is copied (see wire). Any other object stays with its owner, and the other process has a Remote of
it. Each message ends with the containers that have changed since the last one (see containers).

    ["ask", operation, [argument, ...], {name: argument}, container, ...]
    ["answer", value, container, ...]      or      ["raised", exception (see raising), container, ...]
"""

from __future__ import annotations

import socket
from _thread import RLock  # an import of threading would make every program's start slower
from collections.abc import Callable, Iterable
from typing import Any

import containers
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
        self._containers = containers.Containers()
        self._lock = RLock()
        self._idle = False

    def ask(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Ask for an operation; returns the answer or raises the other process's exception, or Gone if it has ended."""
        if self._idle:
            raise RuntimeError("the other side waits for nothing")
        with self._lock:
            self._settle_once()
            packed, _given = self._packed(
                lambda: [
                    "ask",
                    operation,
                    [self._encode(one) for one in args],
                    {name: self._encode(one) for name, one in kwargs.items()},
                ]
            )
            self.questions += 1
            self._send(packed)
            while True:
                match self._receive():
                    case ["ask", str(asked), list(positional), dict(named), *changed]:
                        self._answer(changed, asked, positional, named)
                    case ["answer", value, *changed]:
                        return self._received(changed, [value])[0][0]
                    case ["raised", error, *changed]:
                        ((error,), _) = self._received(changed, [error])
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
                case ["ask", str(asked), list(positional), dict(named), *changed]:
                    self._answer(changed, asked, positional, named)
                case _:
                    return

    def become(self, remote: Remote, kind: type[Remote]) -> Remote:
        """Return what stands for a Remote's object from now on, of this kind."""
        self._remotes[remote._number] = made = kind(self, remote._number)
        return made

    def shown(self, error: BaseException) -> BaseException:
        """Return what the other process may know of an exception."""
        return AssertionError() if self._hides(error) else error

    def lent(self, value: Any) -> bool:
        """Return whether the other process has a Remote of this very object."""
        return id(value) in self._numbers

    def _answer(self, changed: list[Any], operation: str, positional: list[Any], named: dict[str, Any]) -> None:
        values, given = self._received(changed, [*positional, *named.values()])
        args, kwargs = values[: len(positional)], dict(zip(named, values[len(positional) :], strict=True))
        try:
            try:
                value = self._operate(operation, args, kwargs)
            finally:
                self._settle_once()
            packed, _ = self._packed(lambda: ["answer", self._encode(value)], given)
        except Gone:
            raise
        except BaseException as error:
            packed = self._packed_error(self.shown(error), given)
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

    def _packed_error(self, error: BaseException, given: list[containers.Shared]) -> bytes:
        try:
            return self._packed(lambda: ["raised", self._encode(error)], given)[0]
        except Exception:  # it holds more than can be sent, or its class has methods of its own
            name, text = raising.described(error)
            return wire.pack(["raised", {"error": [{"type": name}, [text], text, {}, None, None]}])

    def _packed(
        self, message: Callable[[], list[Any]], given: Iterable[containers.Shared] = ()
    ) -> tuple[bytes, list[containers.Shared]]:
        """Return a message with what has changed before its values are sent, and the containers in it.

        given: those in the question that the message answers, which may be too large to be remembered.
        """
        try:
            changed = [data for value in self._containers.changed(given) for data in self._change(value)]
            packed = wire.pack([*message(), *changed])
        except BaseException:
            self._containers.lost()
            raise
        finally:
            exchanged = self._containers.exchanged()
        return packed, exchanged

    def _change(self, value: Any) -> list[Any]:
        """Return the data of a changed container, none if it now holds what cannot be sent."""
        try:
            return [self._encode(value)]
        except wire.WireError:
            self._containers.lost()
            self._containers.forget(value)
            return []

    def _received(self, changed: list[Any], parts: list[Any]) -> tuple[list[Any], list[containers.Shared]]:
        """Return the values in a message, as they are after its changes, and the containers in the message."""
        for data in changed:
            self._decode(data)
        return [self._decode(part) for part in parts], self._containers.exchanged()

    def _encode(self, value: Any) -> Any:
        return self._reference(value.value) if type(value) is Lent else wire.encode(value, self._reference)

    def _decode(self, data: Any) -> Any:
        try:
            return wire.decode(data, self._referred)
        except wire.WireError as error:
            self._lose(str(error))

    def _reference(self, value: Any, content: Any = None) -> dict[str, Any]:
        if content is not None:
            return self._containers.sent(value, content)
        remote = value if isinstance(value, Remote) else raising.original(value)
        if remote is not None:
            return {"yours": remote._number}
        if isinstance(value, BaseException):
            return {"error": raising.encoded(value, self._encode, self._lend)}
        if not self._lends(value):
            raise wire.WireError(f"a {type(value).__name__} cannot be sent between a program and its tests")
        return self._lend(value)

    def _lend(self, value: Any) -> dict[str, Any]:
        number = self._numbers.setdefault(id(value), len(self._numbers))
        self._lent[number] = value
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"class": [number, value.__name__, [self._encode(base) for base in raising.bases(value)]]}
        return {sort(value): number}

    def _referred(self, tag: str, body: Any) -> Any:
        if tag == "shared":
            return self._containers.arrived(*body)
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
