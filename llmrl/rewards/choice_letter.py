"""The reward of multiple-choice questions: the letter of the option that a completion chooses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llmrl.marks import reads_answers
from llmrl.rewards.text_answers import stated_answer
from llmrl.rewards.thoughts import after_thoughts

_AROUND = r"[\s*_`$\"'(\[{<]*+"
_OPTION = re.compile(
    rf"{_AROUND}(?:(?:option|choice|letter)\b{_AROUND}:?)?{_AROUND}([a-z])(?!['\u2019]?[a-z0-9])", re.IGNORECASE
)
_ANOTHER = re.compile(rf"[\s*_`$)\]}}.]*(?:,|/|&|\+|and\b|or\b){_AROUND}(?:[A-Z](?!['\u2019]?\w)|[a-z]\))")
_ALONE = re.compile(r"[\s*_`$)\]}>.\"']*$|[*_`]*[).:\]](?!\s*(?:is|are|was|were|seems?|can|cannot|must|would|does)\b)")
"""What follows an option that is alone, or that is marked off from its text; "(A) is wrong" is a sentence."""
_CHOSEN = re.compile(
    r"\b(?:option|choice)(?:\s+(?:is|must be|should be|would be)\b|:)[:\s]*([^\n]+)"
    r"|\b(?:choose|select|pick|is|with|[Tt]herefore|[Tt]hus|[Hh]ence|[Ss]o(?=,))[,:\s]+"
    r"(?=[*_`(\[]*(?:option\s+)?[*_`(\[]*[A-Z][)\]*_`.\s]*$)([^\n]+)"
    r"|(?:^|(?<=[\s*_`(\[]))(?=[A-Z][)\]*_`]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b)([^\n]+)"
    r"|答案(?:应该|应)?[是为\uff1a:\s]+[*_`(\uff08\[]*([A-Z])(?!\w|[)\uff09\]*_`\s]*[\u3001\uff0c,/&]\s*[A-Z]\b)",
    re.MULTILINE,
)
"""Words that name the chosen option: "the correct option is (D)", "I choose D.", "D is correct", and in Chinese."""


def _read(
    completion: str, prompt: str = "", *, choices: str = "ABCDEFGHIJ", thoughts_end: str | None = None
) -> str | None:
    text = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    if text is None:
        return None
    stated = stated_answer(text, prompt)
    if stated is not None and (found := _letter(stated)):
        return found if found in choices else None
    return next((found for found in _unstated(text) if found in choices), None)


@reads_answers(_read)
def choice_letter(
    completion: str, answer: Any, prompt: str = "", *, choices: str = "ABCDEFGHIJ", thoughts_end: str | None = None
) -> bool:
    r"""Whether the completion chooses the option that the row names.

    The letter is read after the thoughts: from `<answer>D</answer>`, `\boxed{D}`, `Answer: D`, `the answer is (D)`,
    `Therefore, D.`, `D is correct`, `答案是D`, or from the last or the first line where it stands alone or before its
    option's text (`D. Paris`). Two letters (`A or B`) are no choice. answer: a letter, alone or before its option's
    text, its place in `choices` as an integer, 0 for the first, or a list of which any is right; raises ValueError for
    anything else. choices: the letters of the options. thoughts_end: see `after_thoughts`.
    """
    golds = [_gold(one, choices) for one in (answer if isinstance(answer, list | tuple) else [answer])]
    return _read(completion, prompt, choices=choices, thoughts_end=thoughts_end) in golds


def _gold(answer: Any, choices: str) -> str:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return choices[answer]
    found = _marked_letter(answer) if isinstance(answer, str) else None
    if found is None or found not in choices:
        expected = f"a letter of {choices}, or its place, 0 for {choices[:1]}"
        raise ValueError(f"answer: {answer!r} is not valid, expected {expected}")
    return found


def _letter(text: str) -> str | None:
    """The option that a text begins with; a small letter counts if it is alone or marked off."""
    match = _OPTION.match(text)
    if match is None or _ANOTHER.match(text, match.end()):
        return None
    return match[1].upper() if match[1].isupper() or _ALONE.match(text, match.end()) else None


def _marked_letter(text: str) -> str | None:
    """The option that a text is, or that it begins with and marks off."""
    match = _OPTION.match(text)
    return _letter(text) if match and _ALONE.match(text, match.end()) else None


def _unstated(text: str) -> Iterator[str]:
    """The options that a text without a stated answer may mean, the likeliest first."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return
    listed = [line for line in lines if _marked_letter(line)]
    for line in dict.fromkeys((lines[-1], lines[0])):
        if len(listed) == 1 and (found := _marked_letter(line)):
            yield found
    for match in reversed(list(_CHOSEN.finditer(text))):
        if found := _letter(next(part for part in match.groups() if part)):
            yield found
    bracketed = re.findall(r"\(([A-Z])\)", lines[-1])
    if len(bracketed) == 1 and re.search(r"\([A-Z]\)[\s*.]*$", lines[-1]):
        yield bracketed[0]
