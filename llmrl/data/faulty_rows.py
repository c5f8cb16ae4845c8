"""Rows that cannot be asked, that ask the same, and rows whose questions the rendering drops."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from llmrl.data.files import Row
from llmrl.errors import RecipeError, short
from llmrl.types import Prompt

Found = TypeVar("Found")

NAMED = 3


def of_every_row(rows: Sequence[Row], read: Callable[[Row, str], Found], part: str, key: str) -> list[Found]:
    """`read` of every row and its name; raises one RecipeError that counts and names the rows that cannot be read."""
    found: list[Found] = []
    faults: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        place = f"{part}:{index}"
        try:
            found.append(read(row, place))
        except RecipeError as error:
            faults.setdefault(error.faults[0].removeprefix(f"{key}: {place}: "), []).append(place)
    if faults:
        count = sum(map(len, faults.values()))
        several = f"{count} of {len(rows)} rows cannot be used: " if len(faults) > 1 else ""
        told = "; ".join(_told(fault, places) for fault, places in list(faults.items())[:NAMED])
        raise RecipeError(f"{key}: {several}{told}{_more(list(faults))}")
    return found


def refuse_dropped(prompts: Iterable[Prompt], questions: Mapping[str, str], key: str) -> None:
    """Raises RecipeError if two prompts with different questions are rendered alike: the question is not in them."""
    seen: dict[str, Prompt] = {}
    for prompt in prompts:
        other = seen.setdefault(prompt.text, prompt)
        if questions[other.id].split() != questions[prompt.id].split():
            raise RecipeError(
                f"{key}.chat: the chat template drops the question: {other.id} asks {short(questions[other.id])} and "
                f"{prompt.id} {short(questions[prompt.id])}, but both are rendered as {short(prompt.text)}"
            )


def repeated(prompts: Sequence[Prompt], asked: Callable[[Prompt], Hashable]) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that ask what an earlier one asks, and those among them whose answer is another one."""
    first: dict[Hashable, Prompt] = {}
    again = [one for one in prompts if first.setdefault(asked(one), one) is not one]
    return again, [one for one in again if _answer(one) != _answer(first[asked(one)])]


def named(prompts: Sequence[Prompt]) -> str:
    """The first prompts' names, and how many there are besides."""
    return _names([prompt.id for prompt in prompts])


def _told(fault: str, places: Sequence[str]) -> str:
    first, *others = places
    return f"{first}: {fault}" + (f" (likewise {_names(others)})" if others else "")


def _names(places: Sequence[str]) -> str:
    return ", ".join(places[:NAMED]) + _more(places)


def _answer(prompt: Prompt) -> str:
    return repr(prompt.row.get("answer"))


def _more(things: Sequence[object]) -> str:
    return f" and {len(things) - NAMED} more" if len(things) > NAMED else ""
