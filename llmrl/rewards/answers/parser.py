"""The parser of expressions: from tokens to a function of the symbols' values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction

from llmrl.rewards.answers import functions
from llmrl.rewards.answers.combining import Evaluate, Values, constant, minus, one, several, two
from llmrl.rewards.answers.numbers import quantity
from llmrl.rewards.answers.tokens import Token, UnreadableError
from llmrl.rewards.answers.values import (
    Number,
    TooLargeError,
    add,
    binomial,
    divide,
    factorial,
    mp,
    multiply,
    power,
    real,
    whole,
)

MAX_TERMS = 1000
MAX_TERMS_INSIDE = 30
"""The most terms of a sum, and of each of two sums of which one is in the other."""

_FUNCTION_NAMES = frozenset("fghFGH")
_ENDS = frozenset((")", "}", "|", ",", "&", "\\rfloor", "\\rceil", "\\choose", "\\rangle", "=", "<", ">", ";", ":"))


class Parser:
    """A reader of tokens from left to right; its methods raise UnreadableError.

    symbols: those that were read. has_root, has_steps: whether a root, or a floor, ceiling or sum, was read.
    """

    def __init__(self, found: list[Token]):
        self.tokens = found
        self.place = 0
        self.symbols: set[str] = set()
        self.has_root = self.has_steps = False
        self.bars = self.sums = 0
        self.bound: list[str] = []

    def next(self) -> str:
        return self.tokens[self.place].text if self.place < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.place].kind if self.place < len(self.tokens) else "end"

    def take(self) -> Token:
        if self.place >= len(self.tokens):
            raise UnreadableError("the expression ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def took(self, text: str) -> bool:
        if self.next() == text and self.kind() in ("sign", "command"):
            self.place += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.took(text):
            raise UnreadableError(f"expected {text}")

    def sum(self) -> Evaluate:
        total = self.product()
        while True:
            if self.took("+"):
                total = two(add, total, self.product())
            elif self.took("-"):
                total = two(add, total, minus(self.product()))
            else:
                return total

    def product(self, *, side_by_side_alone: bool = False) -> Evaluate:
        """Read a product; side_by_side_alone: stop at a sign, and at a function, as the argument of \\sin does."""
        total = self.factor()
        while True:
            last = self.tokens[self.place - 1]
            if not side_by_side_alone and self.took("*"):
                total = two(multiply, total, self.factor())
            elif not side_by_side_alone and self.took("/"):
                total = two(divide, total, self.factor())
            elif self._goes_on(last, side_by_side_alone):
                total = two(multiply, total, self.factor(signed=False))
            else:
                return total

    def _goes_on(self, last: Token, alone: bool) -> bool:
        """Return whether another factor stands beside the last one; a number does not follow a number."""
        kind, text = self.kind(), self.next()
        if kind == "number":
            return last.kind != "number" or self._power_follows()
        if kind == "name":
            return True
        if kind == "function":
            return not alone
        if kind == "command":
            return text not in _ENDS and text not in functions.RELATIONS and not (alone and text in functions.LARGE)
        return (text in ("(", "{") and not (alone and last.text == ")")) or (text == "|" and not self.bars)

    def _power_follows(self) -> bool:
        """Return whether the next number has an exponent, as the 3 of 2^6 3^5; "2 3" is no product."""
        return self.place + 1 < len(self.tokens) and self.tokens[self.place + 1].text == "^"

    def factor(self, *, signed: bool = True) -> Evaluate:
        if signed and self.took("-"):
            return minus(self.factor())
        if signed and self.took("+"):
            return self.factor()
        base = self.base()
        while True:
            if self.took("!"):
                base = one(factorial, base)
            elif self.next() == "^" and self._degree_follows():
                self.place += 2
                base = two(multiply, base, lambda values: mp.pi / 180)
            elif self.took("^"):
                base = two(power, base, self._exponent())
            elif self.took("\\%") or self.took("%"):
                base = two(divide, base, constant(Fraction(100)))
            else:
                return base

    def _degree_follows(self) -> bool:
        return self.place + 1 < len(self.tokens) and self.tokens[self.place + 1].text == "\\circ"

    def _exponent(self) -> Evaluate:
        if self.took("{"):
            found = self.sum()
            self.expect("}")
            return self._tower(found)
        return self.factor()

    def _tower(self, found: Evaluate) -> Evaluate:
        return two(power, found, self._exponent()) if self.took("^") else found

    def base(self) -> Evaluate:
        token = self.take()
        if token.kind == "number":
            return self._number(token.text)
        if token.kind == "name":
            return self._symbol(token.text)
        if token.kind == "function":
            return self._applied(token.text)
        if token.text in ("(", "{"):
            return self._group(")" if token.text == "(" else "}")
        if token.text == "|":
            self.bars += 1
            found = self.sum()
            self.expect("|")
            self.bars -= 1
            return one(functions.absolute, found)
        reader = getattr(self, f"_read_{token.text[1:]}", None) if token.text.startswith("\\") else None
        if reader is None:
            raise UnreadableError(f"{token.text} begins no expression")
        return reader()

    def _group(self, closing: str) -> Evaluate:
        bars, self.bars = self.bars, 0
        found = self.sum()
        self.bars = bars
        if closing == "}" and self.took("\\choose"):
            found = two(binomial, found, self.sum())
        self.expect(closing)
        return found

    def _braced(self) -> Evaluate:
        """Read the argument of a command: a group in braces, or one token."""
        if self.took("{"):
            return self._group("}")
        token = self.take()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():  # \frac12 has two arguments
            self.place -= 1
            self.tokens[self.place] = Token("number", token.text[1:])
            return constant(Fraction(token.text[0]))
        self.place -= 1
        return self.base()

    def _number(self, text: str) -> Evaluate:
        exact = quantity(text)
        if exact is None:
            raise UnreadableError(f"{text} is no number")
        if self.next() == "_":
            self.place += 1
            return self._in_base(text)
        return constant(exact.value)

    def _in_base(self, digits: str) -> Evaluate:
        base = self._subscript()
        base = base.removeprefix("(").removesuffix(")")
        if not base.isdigit() or not digits.isdigit() or not 2 <= int(base) <= 36:
            raise UnreadableError("a number's base")
        return constant(Fraction(int(digits, int(base))))

    def _subscript(self) -> str:
        if not self.took("{"):
            return self.take().text
        depth, parts = 1, []
        while True:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token.text, 0)
            if not depth:
                return "".join(parts)
            parts.append(token.text)

    def _symbol(self, name: str) -> Evaluate:
        while self.next() in ("_", "'"):
            name += "'" if self.take().text == "'" else f"_{self._subscript()}"
        if name == "C" and self._two_arguments_follow():
            return two(binomial, *self._arguments("(", ")"))
        if name in _FUNCTION_NAMES and self.next() == "(":
            return self._unknown_function(name)
        if name not in self.bound:
            constant = functions.CONSTANTS.get(name)
            if constant is not None:
                return constant
            self.symbols.add(name)
        return lambda values: values[name]

    def _two_arguments_follow(self) -> bool:
        """Return whether "(n, k)" follows, as in C(n, k)."""
        ahead = self.tokens[self.place : self.place + 5]
        return [token.text for token in ahead[::2]] == ["(", ",", ")"] and all(
            token.kind in ("number", "name") for token in ahead[1::2]
        )

    def _unknown_function(self, name: str) -> Evaluate:
        arguments = self._arguments("(", ")")
        self.symbols.add(name)

        def evaluate(values: Values) -> Number:
            shown = [mp.nstr(real(one(values)), 30) for one in arguments]
            digest = hashlib.blake2b(repr((name, mp.nstr(real(values[name]), 20), shown)).encode(), digest_size=4)
            return Fraction(1 + int.from_bytes(digest.digest(), "big"), 2**31)

        return evaluate

    def _arguments(self, opening: str, closing: str) -> list[Evaluate]:
        self.expect(opening)
        found = [self.sum()]
        while self.took(",") or self.took(";"):
            found.append(self.sum())
        self.expect(closing)
        return found

    def _applied(self, name: str) -> Evaluate:
        """Read a function's argument: \\sin(2x), \\sin 2x, \\sin^2 x, \\log_2 8, \\sqrt[3]{x}, \\gcd(27, 36)."""
        if name == "sqrt":
            return self._read_sqrt()
        base = self._braced() if name == "log" and self.took("_") else None
        inverse = functions.INVERSES.get(name) if self._took_minus_one() else None
        exponent = self._exponent_of_function() if self.took("^") else None
        if name in functions.OF_SEVERAL:
            braces = ("{", "}") if self.next() == "{" else ("(", ")")
            return several(functions.OF_SEVERAL[name], self._arguments(*braces))
        if self.next() in ("(", "{") and self.kind() == "sign":
            argument = self._group(")" if self.take().text == "(" else "}")
        else:
            argument = self.product(side_by_side_alone=True)
        if base is not None:
            return two(functions.logarithm, argument, base)
        applied = one(functions.OF_ONE[inverse or name], argument)
        return two(power, applied, exponent) if exponent else applied

    def _took_minus_one(self) -> bool:
        """Take the exponent -1, which makes the inverse of a function; other functions have no such exponent."""
        for spelt in (["^", "{", "-", "1", "}"], ["^", "-", "1"]):
            if [token.text for token in self.tokens[self.place : self.place + len(spelt)]] == spelt:
                self.place += len(spelt)
                return True
        return False

    def _exponent_of_function(self) -> Evaluate:
        if self.took("{"):
            return self._group("}")
        if self.took("-"):
            return minus(self._braced())
        return self._braced()

    def _read_sqrt(self) -> Evaluate:
        self.has_root, degree = True, constant(Fraction(2))
        if self.next() == "(" and self._is_root_degree():
            self.take()
            degree = self.sum()
            self.expect(")")
        argument = self._group(")") if self.took("(") else self._braced()
        return two(functions.root, argument, degree)

    def _is_root_degree(self) -> bool:
        """Return whether (...){ follows, which the tokens make of [...]{."""
        depth = 0
        for place in range(self.place, len(self.tokens)):
            depth += {"(": 1, ")": -1}.get(self.tokens[place].text, 0)
            if not depth:
                return place + 1 < len(self.tokens) and self.tokens[place + 1].text == "{"
        return False

    def _read_frac(self) -> Evaluate:
        derivative = self._derivative()
        if derivative is not None:
            self.symbols.add(derivative)
            return lambda values: values[derivative]
        top = self._braced()
        return two(divide, top, self._braced())

    def _derivative(self) -> str | None:
        """Return the name of the derivative that {d^n y}{d x^n} spells, None if something else follows."""
        texts = [token.text for token in self.tokens[self.place : self.place + 18]]
        found = functions.DERIVATIVE.match(" ".join(texts))
        if found is None:
            return None
        self.place += len(found.group().split())
        return f"d{found['order'] or ''}{found['function'] or ''}/d{found['variable']}"

    def _read_binom(self) -> Evaluate:
        top = self._braced()
        return two(binomial, top, self._braced())

    def _read_pi(self) -> Evaluate:
        return lambda values: +mp.pi

    def _read_infty(self) -> Evaluate:
        return lambda values: mp.inf

    def _read_lfloor(self) -> Evaluate:
        self.has_steps = True
        found = self.sum()
        self.expect("\\rfloor")
        return one(functions.floor, found)

    def _read_lceil(self) -> Evaluate:
        self.has_steps = True
        found = self.sum()
        self.expect("\\rceil")
        return one(functions.ceiling, found)

    def _read_sum(self) -> Evaluate:
        return self._over_range(add, Fraction(0))

    def _read_prod(self) -> Evaluate:
        return self._over_range(multiply, Fraction(1))

    def _over_range(self, together: Callable[[Number, Number], Number], start: Number) -> Evaluate:
        self.has_steps = True
        if len(self.bound) > 1:
            raise UnreadableError("sums nested too deep")
        outside = len(self.bound)
        self.expect("_")
        self.expect("{")
        name = self.take().text
        self.expect("=")
        first = self.sum()
        self.expect("}")
        self.expect("^")
        last = self._braced()
        self.bound.append(name)
        nested = self.sums
        body = self.product()
        self.bound.pop()
        most = MAX_TERMS_INSIDE if outside or self.sums > nested else MAX_TERMS
        self.sums += 1

        def evaluate(values: Values) -> Number:
            low, high = whole(first(values)), whole(last(values))
            if high - low > most:
                raise TooLargeError("too many terms")
            total = start
            for place in range(low, high + 1):
                total = together(total, body({**values, name: Fraction(place)}))
            return total

        return evaluate
