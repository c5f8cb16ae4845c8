"""Extraction of the program from a completion, in time linear in the text's length."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrl.rewards.extraction import last_tag
from llmrl.rewards.thoughts import after_thoughts

CodeExtract = Literal["fenced", "all", "tag"]
PYTHON = frozenset({"python", "py", "python3"})
CODE_INDENT = 4
"""A fence in a text in triple quotes is code if it is indented this many columns beyond the opening fence."""

_FENCE = re.compile(
    r"(?P<indent>[ \t]*(?P<marker>(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)?)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)"
)
_LANGUAGE = re.compile(r"[\s{.]*(?P<name>[\w+#-]*)")
_QUOTES = re.compile(r"\"{3}|'{3}")


def program(
    completion: str,
    prompt: str = "",
    *,
    extract: CodeExtract = "fenced",
    tag: str = "answer",
    thoughts_end: str | None = None,
    **settings: Any,
) -> str | None:
    """Return the program in what follows the completion's thoughts, or None if there is none.

    "fenced": the last fenced block of Python (python, py, python3), or the last block if none is Python; "tag": the
    program of the blocks in the last `<tag>...</tag>`, or that tag's whole text; "all": the text as it stands. A block
    or tag that is left open was cut short: it holds no program, and no earlier block replaces it. prompt, thoughts_end:
    as in llmrl/rewards/thoughts.py. settings: the verifier's others, of which none is read.
    """
    text = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    if text is None or extract == "all":
        return text
    if extract == "fenced":
        return _last_block(_blocks(text))
    inside = last_tag(text, tag)
    blocks = _blocks(inside) if inside is not None else []
    return _last_block(blocks) if blocks else inside


@dataclass
class _Block:
    """A fenced block. listed: whether its fence follows the marker of a list; quotes: the open triple quotes."""

    language: str
    indent: int
    fence: str
    listed: bool
    lines: list[str] = field(default_factory=list)
    closed: bool = False
    quotes: str | None = None

    def add(self, line: str) -> None:
        self.lines.append(_dedented(line, self.indent))
        for quotes in _QUOTES.findall(line):
            if self.quotes in (None, quotes):
                self.quotes = None if self.quotes else quotes

    def holds(self, other: _Block) -> bool:
        """Return whether the line that would open the other block belongs to the code."""
        quoted = self.quotes is not None and other.indent >= self.indent + CODE_INDENT
        return quoted or (other.listed and other.language not in PYTHON) or not other.fence.startswith(self.fence)


def _last_block(blocks: list[_Block]) -> str | None:
    if not blocks:
        return None
    chosen = next((block for block in reversed(blocks) if block.language in PYTHON), blocks[-1])
    return "\n".join(chosen.lines) + "\n" if chosen.closed else None


def _blocks(text: str) -> list[_Block]:
    """Return all fenced blocks in order, by CommonMark's rules, but for two habits of models.

    A fence with a language always opens a block, and of a block that was left open before it nothing counts. A closing
    fence may be indented further than the opening one, and an opening fence may follow the marker of a list.
    """
    blocks: list[_Block] = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        match = _FENCE.fullmatch(line)
        opened = _opened(match) if match else None
        inner = blocks[-1] if blocks and not blocks[-1].closed else None
        if match is None or opened is None or (inner is not None and inner.holds(opened)):
            if inner is not None:
                inner.add(line)
        elif inner is None:
            blocks.append(opened)
        elif opened.language in PYTHON or len(match["info"].split()) == 1:
            blocks[-1] = opened
        else:
            inner.closed = True
    return blocks


def _opened(match: re.Match[str]) -> _Block:
    language = _LANGUAGE.match(match["info"])
    name, indent = language["name"].lower() if language else "", len(match["indent"].expandtabs(4))
    return _Block(name, indent, match["fence"], match["marker"] is not None)


def _dedented(line: str, indent: int) -> str:
    """Return the line without its block's indentation; the line may have less than that."""
    return line[min(indent, len(line) - len(line.lstrip(" "))) :]
