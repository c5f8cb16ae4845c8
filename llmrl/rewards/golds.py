"""Gold answers: text, a finite number, or a list of those, of which any is right.

gold_texts("5 cm")      ["5 cm"]            gold_texts(None)            ValueError
gold_texts(5.0)         ["5"]               gold_texts(float("nan"))    ValueError
gold_texts([5, "V"])    ["5", "V"]          gold_texts({"value": 5})    ValueError
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from llmrl.errors import RecipeError

if TYPE_CHECKING:
    from llmrl.rewards.base import Rewards
    from llmrl.rewards.reward import Reward
    from llmrl.types import Prompt

EXPECTED = "text, a finite number, or a list of these of which any is right"
SHOWN_CHARACTERS = 80


def gold_texts(gold: Any) -> list[str]:
    """The texts of a gold answer, any of which is right; raises ValueError for a value that is no answer."""
    if hasattr(gold, "tolist"):  # numpy's arrays and scalars
        gold = gold.tolist()
    texts = [_text(one) for one in gold] if isinstance(gold, list | tuple) else [_text(gold)]
    if not texts:
        raise ValueError("an empty list is no answer")
    return texts


def check_graded(rewards: Rewards, prompts: Sequence[Prompt], written: Collection[str] = ()) -> None:
    """Raises RecipeError if prompts that are graded lack a column or a gold answer that a reward needs.

    written: the columns that texts of a question bring while it is played.
    """
    if prompts:
        rewards.check_rows([{**prompt.row, **dict.fromkeys(written, "")} for prompt in prompts])
        check_golds(rewards.rewards, prompts)


def check_golds(rewards: Iterable[Reward], prompts: Sequence[Prompt]) -> None:
    """Raises RecipeError, naming the first rows, if a verifier reads golds of which some are no answers.

    A verifier reads golds if it has the mark of one that reads answers, and takes the column `answer`.
    """
    readers = [one for one in rewards if one.piece.mark("reading") and "answer" in one.columns]
    faults = []
    for reader in readers:
        golds: dict[str, dict[str, Any]] = {}
        for prompt in prompts:
            if reader.scores(prompt.row):
                golds.setdefault(prompt.id.partition(":")[0], {})[prompt.id] = prompt.row.get("answer")
        faults += [fault for part, found in golds.items() if (fault := _fault_of_part(reader, part, found))]
    if faults:
        raise RecipeError(*faults)


def _fault_of_part(reader: Reward, part: str, golds: Mapping[str, Any]) -> str | None:
    read = reader.piece.mark("reading").golds or gold_texts
    faulty = {place: fault for place, gold in golds.items() if (fault := _fault(read, gold))}
    if not faulty:
        return None
    first = "; ".join(f"{place}: {fault}" for place, fault in list(faulty.items())[:3])
    rows = f"{len(faulty)} of {len(golds)} rows have an answer that rewards.{reader.name} cannot use"
    return f"data.{part}.answer: {rows}: {first}; expected {EXPECTED}"


def _fault(read: Callable[[Any], Any], gold: Any) -> str | None:
    try:
        read(gold)
    except ValueError as error:
        return str(error)
    return None


def _text(gold: Any) -> str:
    """One gold's text: a whole number is written without a decimal point."""
    if isinstance(gold, str) and gold.strip():
        return gold
    number = isinstance(gold, int) and not isinstance(gold, bool)
    if number or (isinstance(gold, float | Decimal) and math.isfinite(gold)):
        return str(gold).removesuffix(".0")
    value = "null" if gold is None else repr(gold)
    shown = value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "..."
    raise ValueError(f"{shown} is no answer")
