"""Whether an answer can be read, so that answers that are spelt otherwise can be found equal to it."""

from __future__ import annotations

import re

from llmrl.rewards.answers.brackets import split
from llmrl.rewards.answers.collections import collection
from llmrl.rewards.answers.expressions import read
from llmrl.rewards.answers.fallback import parsed
from llmrl.rewards.answers.measures import without_unit
from llmrl.rewards.answers.names import assignment
from llmrl.rewards.answers.numbers import quantity
from llmrl.rewards.answers.relations import real_set
from llmrl.rewards.answers.words import is_text

_RELATION = re.compile(r"=|<|>|\\(?:[lg]e|ne|approx|equiv)(?![a-zA-Z])")


def understood(text: str) -> bool:
    """Return whether an answer in normal form is a number, a set, words, an expression, or several of these."""
    if not text:
        return False
    value, _ = without_unit(assignment(text)[1])
    if quantity(value) or is_text(value) or real_set(text) or read(value):
        return True
    many = collection(value)
    if many:
        return all(understood(element) for element in many.elements if element != text)
    sides = split(text, _RELATION)
    if len(sides) > 1:
        return all(understood(side) for side in sides)
    return bool(parsed(text))
