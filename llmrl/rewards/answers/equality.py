r"""Whether two answers in normal form are equal: the first rule that applies decides.

identical text                      \dfrac12 = \frac{1}{2}
choices                             C = C) 14
ratios                              2:5 = 4:10
written numbers                     1,200.50 = 1200.5;  36 km/h = 10 m/s;  50% by the `percent` setting
residues                            3 \mod 7 = 10 \pmod 7
sets of real numbers                3 < x is (3, \infty)
names                               x = 5 and 5: the value, if the names do not differ
several answers                     sets, tuples, matrices, lists: element by element, as many as the gold has
relations and equations             both sides count: 2x = y is y - 2x = 0
an expression and its value         A = \pi r^2 = 25\pi is 25\pi
expressions with units              36\pi cm = 36\pi;  90^\circ = \frac{\pi}{2}
words                               the same words
expressions                         by their values
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from llmrl.rewards.answers import fallback
from llmrl.rewards.answers.brackets import split, split_with
from llmrl.rewards.answers.collections import LIST, SET, TUPLE, Collection, collection
from llmrl.rewards.answers.comparison import equal_expressions, proportional
from llmrl.rewards.answers.expressions import read
from llmrl.rewards.answers.measures import scale_of, without_unit
from llmrl.rewards.answers.names import assignment
from llmrl.rewards.answers.numbers import Quantity, close, quantity
from llmrl.rewards.answers.relations import OPERATOR, TURNED, equal_sets, real_set
from llmrl.rewards.answers.units import DEGREE
from llmrl.rewards.answers.values import mp
from llmrl.rewards.answers.words import is_text, typeset

Percent = Literal["unit", "ratio", "either"]

_CHOICE = re.compile(
    r"(?i:option|choice|answer)?\s*(?:\(\s*(?P<inner>[A-J])\s*\)(?!\S)|(?P<bare>[A-J])\s*[).:](?!\S))\s*(?P<text>(?!and\b|or\b|[,+*/-]).*)",
    re.DOTALL,
)
_LETTER = re.compile(r"(?i:(?:option|choice|answer)\s+)?\(?(?P<letter>[A-J])\)?")
_RESIDUE = re.compile(
    r"(?P<value>.*?[^\s(])\s*\(?\s*(?:\\[pb]?mod|mod(?:ulo)?\b)\s*[{(]?\s*(?P<modulus>[^{}()]+?)\s*[})]?\s*\)?",
    re.DOTALL,
)
_APPROXIMATELY = re.compile(r"\\approx(?![a-zA-Z])")
_EQUALS = re.compile(r"=|\\approx(?![a-zA-Z])|\\equiv(?![a-zA-Z])")
_LEADS_TO = re.compile(r".*(?:\\Rightarrow|=>)", re.DOTALL)
_VARIES = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]")
_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*d\s*(?:\^\s*\{?(?P<order>[1-9])\}?)?\s*(?P<function>[a-zA-Z])\s*\}\s*\{\s*d\s*[a-zA-Z]\s*(?:\^\s*\{?[1-9]\}?)?\s*\}"
)
_SYMBOL = re.compile(r"\\?[a-zA-Z]\w?(?:_\{?\w+\}?)?")
_INSIDE = re.compile(r"\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\]|_\{?\w+\}?")
MAX_NAME_CHARACTERS = 40
_LEADS = re.compile(r"^\s*\\?[a-zA-Z]\w*(?:_\{?\w+\}?)?\s*\\equiv(?![a-zA-Z])\s*")
MAX_ELEMENTS = 50
_MINUTES = re.compile(r":\s*0\d")
_RATIO = re.compile(r"\d{1,9}(?:\s*:\s*\d{1,9})+")
_BINDS = re.compile(r"\\(?:int|iint|lim|det|sum|prod|begin)(?![a-zA-Z])")


@dataclass(frozen=True)
class Equality:
    """The equality of answers under one meaning of 50%: "unit" is 50, "ratio" is 0.5, "either" is both."""

    percent: Percent

    def __call__(self, gold: str, found: str) -> bool:
        """Return whether two answers in normal form are equal; no text in `found` raises an exception."""
        if not found:
            return False
        if gold == found or typeset(gold) == typeset(found):
            return True
        for rule in RULES:
            verdict = rule(self, gold, found)
            if verdict is not None:
                return verdict
        return False


def _choices(equal: Equality, gold: str, found: str) -> bool | None:
    """A letter is equal to the letter with its option's text, and that text to both."""
    one = _choice(gold)
    other = _choice(found[:1].upper() + found[1:] if one and not one[1] else found)
    if one and other:
        return one[0] == other[0] and (not (one[1] and other[1]) or equal(one[1], other[1]))
    if one and one[1]:
        return equal(one[1], found)
    return equal(gold, other[1]) if other and other[1] else None


def _choice(text: str) -> tuple[str, str] | None:
    letter = _LETTER.fullmatch(text)
    if letter:
        return letter["letter"], ""
    match = _CHOICE.fullmatch(text)
    return ((match["inner"] or match["bare"]).upper(), match["text"].strip()) if match else None


def _quantities(equal: Equality, gold: str, found: str) -> bool | None:
    one = quantity(gold)
    says_unit = one is not None and one.unit is not None and one.unit.measures is not None
    other = quantity(found, letters=says_unit) if one else None
    return _equal_quantities(one, other, equal.percent) if one and other else None


def _equal_quantities(gold: Quantity, found: Quantity, percent: Percent) -> bool:
    scale = Fraction(1)
    if gold.unit and found.unit:
        found_scale = scale_of(gold.unit, found.unit)
        if found_scale is None:
            return False
        if type(found_scale) is not Fraction:
            return equal_expressions(_exact(gold.value), _exact(found.value), scale=found_scale) is True
        scale = found_scale
    if gold.percent == found.percent or percent == "unit":
        return close(gold, found, scale)
    share = Fraction(100) if gold.percent else Fraction(1, 100)
    return close(gold, found, scale * share) or (percent == "either" and close(gold, found, scale))


def _exact(value: Fraction) -> str:
    return f"({value.numerator})/({value.denominator})"


def _residues(equal: Equality, gold: str, found: str) -> bool | None:
    """Residues are equal if they differ by a multiple of their modulus; a modulus on one side only is passed over."""
    if "mod" not in gold and "mod" not in found:
        return None
    one, other = _RESIDUE.fullmatch(gold), _RESIDUE.fullmatch(found)
    if one is None and other is None:
        return None
    alone = None if one and other else one or other
    if alone and quantity(alone["value"].rpartition("\\equiv")[2].strip()) is None:
        return False
    left, right = (_LEADS.sub("", match["value"] if match else text) for match, text in ((one, gold), (other, found)))
    if one and other:
        if not equal(one["modulus"], other["modulus"]):
            return False
        numbers = [quantity(text.strip()) for text in (left, right, one["modulus"])]
        if all(number is not None and number.value.denominator == 1 for number in numbers):
            first, second, modulus = (number.value for number in numbers if number)
            return bool(modulus) and (first - second) % modulus == 0
    if (r"\equiv" in left) != (r"\equiv" in right):
        return False
    return equal(left.strip(), right.strip())


def _sets_of_numbers(equal: Equality, gold: str, found: str) -> bool | None:
    one = real_set(gold)
    other = real_set(found) if one else None
    if one is None or other is None:
        return None
    plain = one.written_as_interval and other.written_as_interval
    if plain and len(one.intervals) == len(other.intervals) == 1:
        return None  # two tuples look like intervals
    return equal_sets(one, other)


def _names(equal: Equality, gold: str, found: str) -> bool | None:
    gold_name, gold_value = assignment(gold)
    found_name, found_value = assignment(found)
    if found_name and (not (gold_name or "=" in gold) or _same_name(gold_name, found_name)):
        return equal(gold_value, found_value)
    if gold_name and not found_name and not _EQUALS.search(found):
        return equal(gold_value, found)
    return None


def _same_name(one: str, other: str) -> bool:
    """Return whether two names may name one thing: y and f(x) do, and a name in words may be any other."""
    if not one or not other:
        return False
    bare, other_bare = (re.sub(r"\(\w\)\Z", "", name) for name in (one, other))
    if bare == other_bare and bare.isalpha():
        return True
    shapes = {"y" if name == "y" or re.fullmatch(r"[f-h]\(\w\)", name) else name for name in (one, other)}
    return len(shapes) == 1 or any(name.isalpha() and len(name) > 3 for name in (one, other))


def _several(equal: Equality, gold: str, found: str) -> bool | None:
    one, other = collection(gold), collection(found)
    if one is None and other is None:
        return None
    if other and other.brackets == SET and len(other.elements) == 1 and one is None:
        return gold != r"\emptyset" and equal(gold, other.elements[0])
    if one and one.brackets == SET and len(one.elements) == 1 and (other is None or other.brackets == TUPLE):
        return found != r"\emptyset" and equal(one.elements[0], found)
    if (one is None and r"\begin" in gold) or (other is None and r"\begin" in found):
        return None  # a product or a sum of matrices
    return _equal_collections(equal, one or Collection((gold,)), other or Collection((found,)))


def _equal_collections(equal: Equality, gold: Collection, found: Collection) -> bool:
    if not gold.comparable(found):
        return False
    if gold.names or found.names:
        return _equal_named(equal, gold, found)
    left, right = _distinct(equal, gold), _distinct(equal, found)
    if len(left) != len(right):
        return False
    if gold.ordered or found.ordered:
        return all(equal(one, other) for one, other in zip(left, right, strict=True))
    for one in left:
        other = next((other for other in right if equal(one, other)), None)
        if other is None:
            return False
        right.remove(other)
    return True


def _equal_named(equal: Equality, gold: Collection, found: Collection) -> bool:
    """Values of the same names are compared by name, others in the order as written or in that of the names."""
    if len(gold.elements) != len(found.elements):
        return False
    ways = {(gold.elements, found.elements), (gold.in_order_of_names(), found.elements)}
    if set(gold.names) == set(found.names) or found.names:
        ways = {(gold.in_order_of_names(), found.in_order_of_names())}
    return any(all(equal(one, other) for one, other in zip(*way, strict=True)) for way in ways)


def _distinct(equal: Equality, many: Collection) -> list[str]:
    """Return the elements, those of a set and tuples only once each."""
    once = many.brackets == SET or (many.brackets == LIST and all(one.startswith("(") for one in many.elements))
    if not once or len(many.elements) > MAX_ELEMENTS:
        return list(many.elements)
    kept: list[str] = []
    for element in many.elements:
        if not any(equal(one, element) for one in kept):
            kept.append(element)
    return kept


def _relations(equal: Equality, gold: str, found: str) -> bool | None:
    """Relations between expressions: y > 2x is 2x < y."""
    one, other = _sides(gold, OPERATOR), _sides(found, OPERATOR)
    if one is None and other is None:
        return None
    if one is None or other is None or len(one) != len(other):
        return False
    if len(one) > 3:
        return all(equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    (left, operator, right), (found_left, found_operator, found_right) = one, other
    turned = (found_right, TURNED[found_operator], found_left)
    for first, same, second in (other, turned):
        if same == operator and equal(left, first) and equal(right, second):
            return True
    ratio = proportional((left, right), (found_left, found_right))
    if ratio is None:
        return False
    return operator == (found_operator if ratio > 0 else TURNED[found_operator])


def _sides(text: str, operator: re.Pattern[str]) -> list[str] | None:
    """Return the sides of a relation with the operators between them; None if the text is no relation."""
    parts = split_with(text, operator)
    if len(parts) < 2 or not all(side for side, _ in parts):
        return None
    return [piece for part in parts for piece in part][:-1]


def _equations(equal: Equality, gold: str, found: str) -> bool | None:
    """Equations are equal if one is a multiple of the other, left side less right side."""
    if "'" in gold + found:
        gold, found = _with_primes(gold), _with_primes(found)
    one, other = split(gold, _EQUALS), split(found, _EQUALS)
    if len(one) != 2 or len(other) != 2 or _is_constant(one[0]):
        return None
    if proportional((one[0], one[1]), (other[0], other[1])) is not None:
        return True
    ways = ((one, other), (one, other[::-1]))
    if any(read(side) is None for side in (*one, *other)):
        return any(all(equal(mine, theirs) for mine, theirs in zip(*way, strict=True)) for way in ways)
    return False


def _with_primes(text: str) -> str:
    """Return the text with y'' for the derivative that is written as a fraction, whatever its variable is."""
    return _DERIVATIVE.sub(lambda match: match["function"] + "'" * int(match["order"] or 1), text)


def _values(equal: Equality, gold: str, found: str) -> bool | None:
    """An expression that is followed by its value is equal to the value."""
    led = _LEADS_TO.match(found)
    if led and led.end() < len(found) and not _LEADS_TO.match(gold):
        return equal(gold, found[led.end() :].strip())
    gold_value, found_value = _value_of(gold) or assignment(gold)[1], _value_of(found)
    if gold_value != gold:
        return equal(gold_value, found if found_value is None else found_value)
    about = split(found, _APPROXIMATELY)
    if len(about) > 1 and len(split(gold, _EQUALS)) == 1:
        return any(equal(gold, one) for one in about)
    if found_value is not None and len(split(gold, _EQUALS)) == 1:
        return equal(gold, found_value)
    return False if len(split(found, _EQUALS)) > 1 or len(split(gold, _EQUALS)) > 1 else None


def _value_of(text: str) -> str | None:
    """Return the value that ends a chain such as A = 2 + 3 = 5 or i^2 - 3 = -4; x^2 - 4 = 0 has none."""
    parts = split(text, _EQUALS)
    if len(parts) < 2:
        return None
    first, *between, value = parts
    named = bool(assignment(f"{first} = 0")[0]) and len(parts) > 2
    if not between and _is_constant(first) and _SYMBOL.fullmatch(value) and not _is_constant(value):
        return first  # 24 = x
    named = named or (_names_quantity(first) and _is_constant(value))
    if named or all(_is_constant(part) for part in parts):
        return value
    return value if all(equal_expressions(part, value) for part in (first, *between)) else None


def _names_quantity(text: str) -> bool:
    """Return whether a side without numbers and powers names a quantity: x + y, P(X = 2), \\cos\\theta, [ABC]."""
    outside = _INSIDE.sub("", text)
    return len(text) <= MAX_NAME_CHARACTERS and not re.search(r"\d|\^", outside) and bool(re.search("[a-zA-Z]", text))


def _is_constant(text: str) -> bool:
    expression = read(text)
    return not expression.symbols if expression else bool(_BINDS.search(text)) or not _VARIES.search(text)


def _words(equal: Equality, gold: str, found: str) -> bool | None:
    return False if is_text(gold) or is_text(found) else None


def _measured(equal: Equality, gold: str, found: str) -> bool | None:
    """Expressions with units; a unit on one side only is passed over, but degrees may stand for radians."""
    (left, gold_unit), (right, found_unit) = without_unit(gold), without_unit(found)
    if gold_unit is None and found_unit is None:
        return None
    if DEGREE in (gold_unit, found_unit) and equal_expressions(gold, found):
        return True
    if gold_unit and found_unit:
        scale = scale_of(gold_unit, found_unit)
        return scale is not None and equal_expressions(left, right, scale=scale) is True
    if equal(left, right):
        return True
    if DEGREE not in (gold_unit, found_unit):
        return False
    return equal_expressions(left, right, scale=mp.pi / 180 if found_unit else 180 / mp.pi) is True


def _expressions(equal: Equality, gold: str, found: str) -> bool | None:
    verdict = equal_expressions(gold, found)
    return fallback.equal(gold, found) if verdict is None else verdict


Rule = Callable[[Equality, str, str], bool | None]


def _ratios(equal: Equality, gold: str, found: str) -> bool | None:
    """Ratios are equal if their terms are proportional; 2:5 is also 2/5."""
    one, other = _RATIO.fullmatch(gold), _RATIO.fullmatch(found)
    if one is None or any(_MINUTES.search(text) for text in (gold, found)):
        return None
    left = [int(term) for term in re.split(r"\s*:\s*", gold)]
    if other is None:
        value = quantity(found) if len(left) == 2 and left[1] and not re.search(r":\s*\d\d\Z", gold) else None
        return value.value == Fraction(*left) if value and not value.decimal and not value.unit else None
    right = [int(term) for term in re.split(r"\s*:\s*", found)]
    same = len(left) == len(right) and any(left) and any(right)
    return same and all(a * sum(right) == b * sum(left) for a, b in zip(left, right, strict=True))


RULES: tuple[Rule, ...] = (
    _choices,
    _ratios,
    _quantities,
    _residues,
    _sets_of_numbers,
    _names,
    _several,
    _relations,
    _equations,
    _values,
    _measured,
    _words,
    _expressions,
)  # fmt: skip
