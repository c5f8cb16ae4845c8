"""Extraction of the program from a completion, in time linear in the text's length."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from llmrl.rewards.extraction import last_tag

CodeExtract = Literal["fenced", "all", "tag"]
PYTHON = frozenset({"python", "py", "python3"})
CODE_INDENT = 4
"""A line of backticks that is indented this many columns beyond the opening fence belongs to the code."""

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)")
_LANGUAGE = re.compile(r"[\s{.]*(?P<name>[\w+#-]*)")


def program(completion: str, *, extract: CodeExtract = "fenced", tag: str = "answer") -> str | None:
    """Return the completion's program, or None if it has none.

    "fenced": the last fenced block of Python (python, py, python3), or the last block if none is Python; "tag": the
    program of the blocks in the last `<tag>...</tag>`, or that tag's whole text; "all": the completion as it stands. A
    block or tag that is left open was cut short: it holds no program, and no earlier block replaces it.
    """
    if extract == "all":
        return completion
    if extract == "fenced":
        return _last_block(_blocks(completion))
    inside = last_tag(completion, tag)
    blocks = _blocks(inside) if inside is not None else []
    return _last_block(blocks) if blocks else inside


@dataclass
class _Block:
    language: str
    indent: int
    fence: str
    lines: list[str] = field(default_factory=list)
    closed: bool = False


def _last_block(blocks: list[_Block]) -> str | None:
    if not blocks:
        return None
    chosen = next((block for block in reversed(blocks) if block.language in PYTHON), blocks[-1])
    return "\n".join(chosen.lines) + "\n" if chosen.closed else None


def _blocks(text: str) -> list[_Block]:
    """Return all fenced blocks in order, by CommonMark's rules, but a fence with a language always opens a block.

    If a model left one block open and opened another, only the second counts.
    """
    blocks: list[_Block] = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        match = _FENCE.fullmatch(line)
        inner = blocks[-1] if blocks and not blocks[-1].closed else None
        if match is None:
            if inner is not None:
                inner.lines.append(_dedented(line, inner.indent))
            continue
        opened = _opened(match)
        if inner is None:
            blocks.append(opened)
        elif opened.indent >= inner.indent + CODE_INDENT or not opened.fence.startswith(inner.fence):
            inner.lines.append(_dedented(line, inner.indent))
        elif opened.language in PYTHON or len(match["info"].split()) == 1:
            blocks[-1] = opened
        else:
            inner.closed = True
    return blocks


def _opened(match: re.Match[str]) -> _Block:
    language = _LANGUAGE.match(match["info"])
    return _Block(language["name"].lower() if language else "", len(match["indent"].expandtabs(4)), match["fence"])


def _dedented(line: str, indent: int) -> str:
    """Return the line without its block's indentation; the line may have less than that."""
    return line[min(indent, len(line) - len(line.lstrip(" "))) :]
