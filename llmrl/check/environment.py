"""A trial episode as it was played: what an author was asked, wrote and was told, and how the episode ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from llmrl.check.report import Report
from llmrl.pieces import Piece
from llmrl.types import ENVIRONMENT, Trajectory, Turn

SHOWN_TURNS = 3
SHOWN_CHARACTERS = 400


def example_action(env: Piece, pattern: str | None) -> list[str]:
    """A text with a valid action, of an environment that is marked with one, as `turns.action` reads it."""
    if (example := env.mark("example")) is None:
        return []
    action = example(**env.settings)
    written = re.sub(r"\((?!\?).*\)", lambda found: action, pattern or "").replace("\\", "")
    found = re.search(pattern, written, re.DOTALL) if pattern else None
    return [written if found and found[1] == action else action]


def say_episode(trajectory: Trajectory, decode: Callable[[list[int]], str], report: Report) -> None:
    """Print the first turns of a trial episode, its end, and what the environment says of it."""
    report.say("episode", f"{trajectory.author} reads {_shown(decode(list(trajectory.prompt.token_ids)))}")
    said = [turn for turn in trajectory.turns if turn.author != ENVIRONMENT]
    for turn, told in _exchanges(trajectory.turns)[:SHOWN_TURNS]:
        report.say("", f"writes {_shown(turn.text)}: {_read(turn)}")
        if told:
            report.say("", f"is told {_shown(told)}")
    verdict = {True: ", solved", False: ", unsolved", None: ""}[trajectory.solved]
    measured = "".join(f", {name} {value:g}" for name, value in trajectory.measured.items())
    turns = f"{len(said)} turn{'' if len(said) == 1 else 's'}"
    report.say("", f"ends after {turns} ({trajectory.stop_reason}){verdict}{measured}")


def _exchanges(turns: Sequence[Turn]) -> list[tuple[Turn, str]]:
    """Each of the author's turns with what the environment told after it."""
    found: list[tuple[Turn, str]] = []
    for turn in turns:
        if turn.author != ENVIRONMENT:
            found.append((turn, ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + turn.text)
    return found


def _read(turn: Turn) -> str:
    """The action that the environment read in a turn, and its reward."""
    reward = "no reward" if turn.reward is None else f"reward {turn.reward:g}"
    if turn.valid:
        return f"{f'action {_shown(turn.action)}, ' if turn.action is not None else ''}{reward}"
    return f"no valid action, {reward}"


def _shown(text: str) -> str:
    left = len(text) - SHOWN_CHARACTERS
    return repr(text) if left <= 0 else f"{text[:SHOWN_CHARACTERS]!r} and {left} characters more"
