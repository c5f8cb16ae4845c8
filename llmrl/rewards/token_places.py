"""Places of an answer's characters among its author's tokens, for rewards of single tokens."""

from __future__ import annotations

from collections.abc import Mapping

from llmrl.models.text import Decode, end_of
from llmrl.rewards.respondents import Respondent
from llmrl.types import Trajectory


def decode_of(authors: Mapping[str, Respondent], author: str) -> Decode:
    """The function that makes text of an author's tokens; raises ValueError for an author that is no role."""
    found = getattr(authors.get(author), "decode", None)
    if found is None:
        raise ValueError(f"nobody knows the text of the tokens of '{author}'")
    return found


def token_behind(trajectory: Trajectory, answer: str, characters: int, decode: Decode) -> int:
    """The place, among the author's tokens, of the one that completes the first `characters` characters of an answer.

    answer: the text of the last turn, or what is left of it after its thoughts.
    """
    *earlier, last = trajectory.own_turns
    start = max(trajectory.text.rfind(answer), 0)
    return sum(len(turn.token_ids) for turn in earlier) + end_of(decode, last.token_ids, start + characters)
