"""The reward of rows that give instructions which a program can check, as IFEval's do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from llmrl.errors import unknown_name
from llmrl.marks import reads_answers
from llmrl.rewards.english import language_of
from llmrl.rewards.instructions import CHECKS
from llmrl.rewards.thoughts import after_thoughts
from llmrl.types import Score


def _read(completion: str, prompt: str = "", *, loose: bool = False, thoughts_end: str | None = None) -> str | None:
    text = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    return text if text and text.strip() else None


@reads_answers(_read)
def instruction_following(
    completion: str,
    instruction_id_list: Sequence[str],
    kwargs: Sequence[Mapping[str, Any] | None],
    prompt: str = "",
    *,
    loose: bool = False,
    thoughts_end: str | None = None,
) -> Score:
    """The share of the row's instructions that the completion follows after its thoughts; correct if it follows all.

    instruction_id_list: names of CHECKS in llmrl/rewards/instructions.py. kwargs: the arguments of each; those that are
    null are left out. loose: an instruction also counts as followed if it is followed without the first line, the last
    line or the asterisks. thoughts_end: see `after_thoughts`. Raises ValueError for a name that is no instruction's and
    for arguments that are missing, and ModuleNotFoundError if a language has to be told and langdetect is missing.
    Source: IFEval, arXiv 2311.07911.
    """
    if not instruction_id_list or len(kwargs) != len(instruction_id_list):
        raise ValueError(
            f"instruction_id_list has {len(instruction_id_list)} names and kwargs {len(kwargs)} entries, "
            "expected as many, and at least one"
        )
    text = _read(completion, prompt, thoughts_end=thoughts_end)
    texts = [one for one in (_variants(text) if loose else [text]) if one.strip()] if text else []
    pairs = list(zip(instruction_id_list, kwargs, strict=True))
    arguments = [_arguments(name, given or {}) for name, given in pairs]
    followed = [
        any(CHECKS[name](one, **own) for one in texts) for name, own in zip(instruction_id_list, arguments, strict=True)
    ]
    return Score(sum(followed) / len(followed), all(followed))


def _arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the instruction's check takes."""
    if name not in CHECKS:
        raise ValueError(unknown_name("instruction_id_list", name, CHECKS, "instruction"))
    _, *parameters = inspect.signature(CHECKS[name]).parameters.values()
    found = {one.name: given[one.name] for one in parameters if given.get(one.name) is not None}
    missing = [one.name for one in parameters if one.default is one.empty and one.name not in found]
    if missing:
        raise ValueError(f"kwargs: {name} needs {', '.join(missing)}, and has {dict(given)}")
    return found


def _variants(text: str) -> list[str]:
    """The text, and the text without its first line, its last line and both, each also without asterisks."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(one.replace("*", "") for one in cut)]


def warm_up() -> None:
    """Load the profiles of languages, which takes a second."""
    language_of("Hello")
