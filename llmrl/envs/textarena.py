"""Games of textarena, as worlds for one role or several."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from llmrl.envs.hosts import HostedWorld, shared
from llmrl.envs.packages import imported, is_path, require
from llmrl.envs.world import Outcome
from llmrl.errors import first_line, unknown_name
from llmrl.marks import seats, settings_checked_by

Name = Annotated[str, Field(min_length=1)]
ACTOR = "actor"
RAW = "-raw"
"""The end of the ids of games without wrappers."""
NEVER = 10**9
"""So many invalid moves in a row are none too many."""


def _check(*, id: str, settings: Mapping[str, Any] | None, players: Sequence[str], **others: Any) -> None:
    """Raises ValueError for a missing package, and for a game or a player that cannot be had."""
    require("textarena")
    if all(is_path(player) for player in players):
        raise ValueError("players: expected at least one role among the functions")
    for player in filter(is_path, players):
        imported(player)
    stream = random.getstate()  # games draw from it, and some reseed it
    try:
        game = _made(id, settings or {})
        game.reset(num_players=len(players), seed=0)
    except AssertionError as error:
        raise ValueError(f"players: {len(players)} of them cannot play {id}: {first_line(error)}") from None
    except ValueError:
        raise
    except Exception as error:  # games that lack data or a newer Python raise anything
        told = f"{type(error).__name__}: {next(filter(str.strip, str(error).splitlines()), '')}"
        raise ValueError(f"id: {id} cannot be made by textarena as it is installed: {told}") from None
    finally:
        random.setstate(stream)


@settings_checked_by(_check)
@seats("players")
def textarena(
    *,
    id: Name,
    settings: dict[str, Any] | None = None,
    players: Annotated[list[Name], Field(min_length=1)] = [ACTOR],  # noqa: B006 (never changed)
    shuffled: bool = False,
    invalid_ends: bool = False,
    hidden: bool = False,
    deadline_seconds: PositiveFloat = 60.0,
    processes: PositiveInt | None = None,
) -> HostedWorld:
    """A game of textarena, in a host process.

    id: as in its registry, without the end that names wrappers; settings: of the game. players: who sits where, each a
    role or a `module:function` of the player's observation, which answers with an action; shuffled: the seed deals the
    seats. A role is told what is new to it, without its own moves. An action without brackets is put into brackets.
    invalid_ends: keep textarena's rule that a second invalid move in a row ends the game, which is then unsolved,
    although the game may pay for it; default: an invalid move changes nothing, and `turns.invalid` says what follows.
    hidden: let critics see the game's inner state. deadline_seconds: of each call. processes: that hold the games;
    default: half of the cores.
    """
    given = {
        "id": id,
        "settings": settings or {},
        "players": players,
        "shuffled": shuffled,
        "invalid_ends": invalid_ends,
        "hidden": hidden,
    }
    return shared(processes).world(Textarena, given, name=f"textarena:{id}", deadline_seconds=deadline_seconds)


class Textarena:
    """One game, in a host; the settings are those of `textarena`.

    seats: the player of each of the game's numbers. acted: the numbers of those who have moved. refused: whether the
    game called the last move invalid.
    """

    def __init__(
        self,
        *,
        id: str,
        settings: Mapping[str, Any],
        players: Sequence[str],
        shuffled: bool = False,
        invalid_ends: bool = False,
        hidden: bool = False,
    ):
        self._game = _made(id, settings)
        self.seats = list(players)
        self._scripted = {player: imported(player) for player in players if is_path(player)}
        self._first = next(player for player in players if player not in self._scripted)
        self._shuffled, self._invalid_ends, self._hidden = shuffled, invalid_ends, hidden
        self.acted: set[int] = set()
        self.refused = False

    def reset(self, seed: int) -> Outcome:
        if self._shuffled:
            random.Random(seed).shuffle(self.seats)
        self._game.reset(num_players=len(self.seats), seed=seed)
        state = self._game.state
        if not self._invalid_ends and hasattr(state, "error_allowance"):
            state.error_allowance = NEVER
        state.set_invalid_move = partial(self._refuse, getattr(state, "set_invalid_move", None))
        return self._until_a_role(False, state.current_player_id, valid=True)

    def act(self, action: str) -> Outcome:
        """One move of the role whose turn it is, and those of scripted players after it."""
        if self._game.state.done:
            raise RuntimeError("act after the end of the game")
        mover = self._game.state.current_player_id
        done = self._moved(action)
        self.acted.add(mover)
        return self._until_a_role(done, mover, valid=not self.refused)

    def _refuse(self, told: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
        self.refused = True
        return told(*args, **kwargs) if told else None

    def _moved(self, action: str) -> bool:
        self.refused = False
        bare = "[" not in action and "]" not in action
        done, _ = self._game.step(f"[{action}]" if bare else action)
        return bool(done)

    def _until_a_role(self, done: bool, mover: int, *, valid: bool) -> Outcome:
        """The outcome once a role is to move, or the game is over."""
        while not done:
            number, new = self._game.get_observation()
            text = self._text(number, new)
            player = self._scripted.get(self.seats[number])
            if player is None:
                told = self.seats[number] if len(self.seats) > 1 else None
                return Outcome(text, valid=valid, player=told, solved=False, hidden=self._inner())
            done = self._moved(str(player(text)))
        return self._ended(mover, valid=valid)

    def _ended(self, mover: int, *, valid: bool) -> Outcome:
        """The end of the game. One that an invalid move ended is not solved, whoever is paid for it."""
        rewards, info = self._game.close()
        rewards, own = rewards or {}, self.seats.index(self._first)
        forfeited = any(of_player.get("invalid_move") for of_player in info.values())
        best = rewards.get(own, 0.0) >= 1.0 if len(self.seats) == 1 else rewards.get(own, 0.0) > 0.0
        others = {
            self.seats[number]: float(reward)
            for number, reward in rewards.items()
            if number != mover and number in self.acted and self.seats[number] not in self._scripted
        }
        return Outcome(
            str(info[mover].get("reason") or ""),
            reward=float(rewards[mover]) if mover in rewards else None,
            terminated=True,
            valid=valid,
            solved=bool(best and not forfeited),
            rewards=others,
            hidden=self._inner(),
        )

    def _text(self, number: int, new: Sequence[tuple[int, str, Any]]) -> str:
        """The new messages for a player, without its own moves, which it has made itself."""
        names, lines = self._game.state.role_mapping, []
        for writer, message, kind in new:
            moved = kind.name == "PLAYER_ACTION"
            if not (moved and writer == number):
                lines.append(f"[{names.get(writer, writer)}] {message}" if moved else message)
        return "\n".join(line.strip("\n") for line in lines)

    def _inner(self) -> str | None:
        state = self._game.state.game_state
        return json.dumps(state, default=str) if self._hidden else None


def _made(id: str, settings: Mapping[str, Any]) -> Any:
    """A new game without wrappers, which would carry an earlier game's text into the next."""
    quiet = io.StringIO()  # some games look for word lists on the network, and say so
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        import textarena as library
        from textarena.envs.registration import ENV_REGISTRY as games

        if f"{id}{RAW}" not in games:
            plain = [name.removesuffix(RAW) for name in games if name.endswith(RAW)]
            raise ValueError(unknown_name("id", id, plain, "game of textarena"))
        return library.make(f"{id}{RAW}", **settings)
