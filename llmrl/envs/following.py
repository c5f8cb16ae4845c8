"""The text that a chat template writes after a turn, learned from conversations so that few are rendered in full.

    what was said   <eot>   \\n<user>      what is told       <eot>\\n<assistant>
                    ^ the template's own    ^ fills the gap    ^ the template's own

Most templates write the same texts around what is told, whatever was said before. That is learned once for each kind of
turn, and compared with a full rendering at the 1st, 2nd, 4th, 8th, ... use; a kind that fails a comparison is rendered
in full from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass


@dataclass
class _Pattern:
    """form: in which the turn is written. texts: the template's, around what is told; None: they are not the same."""

    form: int
    texts: list[str] | None
    uses: int = 0

    def filled(self, words: Sequence[str]) -> str:
        assert self.texts is not None
        return "".join(part for pair in zip(self.texts, [*words, ""], strict=True) for part in pair)


class Following:
    """Learned texts of one author's chat template, by the kind of a turn."""

    def __init__(self) -> None:
        self._patterns: dict[Hashable, _Pattern] = {}

    def expected(self, kind: Hashable, words: Sequence[str]) -> tuple[int, str] | None:
        """The form of a turn and the text that follows it; None if the conversation has to be rendered.

        words: of the messages that follow.
        """
        pattern = self._patterns.get(kind)
        if pattern is None or pattern.texts is None:
            return None
        pattern.uses += 1
        if pattern.uses & (pattern.uses - 1) == 0:
            return None
        return pattern.form, pattern.filled(words)

    def learn(
        self,
        kind: Hashable,
        words: Sequence[str],
        form: int,
        rest: str | None,
        probe: Callable[[Sequence[str]], str | None],
    ) -> None:
        """Learn from a rendered conversation, or compare with one.

        rest: the text that followed, None where the turn was not shown as it was said. probe: words -> the text that
        would have followed.
        """
        known = self._patterns.get(kind)
        if known is not None:
            if known.texts is not None and (rest is None or known.filled(words) != rest or known.form != form):
                known.texts = None
            return
        found = _Pattern(form, None)
        self._patterns[kind] = found
        probes = [f"q{number}zq" for number in range(len(words))]
        text = probe(probes) if rest is not None else None
        if text is None:
            return
        texts = []
        for one in probes:
            before, shown, text = text.partition(one)
            if not shown:
                return
            texts.append(before)
        found.texts = [*texts, text]
        if found.filled(words) != rest:
            found.texts = None
