r"""How a model may write an answer, and answers that should earn nothing.

in a sentence   The answer is 12.       boxed     \boxed{12}        after '####'    #### 12
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llmrl.recipe_rows import Rows
from llmrl.rewards.golds import gold_texts
from llmrl.rewards.thoughts import tags_of
from llmrl.types import Prompt

OTHER_GOLD, SAME_GOLD = "another row's gold", "one row's gold on every row"
ZERO, NAN, UNKNOWN, GARBAGE = "0", "nan", "I don't know.", "qqq zzz qqq"

_LARGE = re.compile(r"\d{4,}")


def golds_of(prompt: Prompt) -> list[str]:
    """The texts of the row's gold answer; none where the row has no answer in words or numbers."""
    try:
        return gold_texts(prompt.row.get("answer"))
    except ValueError:
        return []


def ways(source: Rows, settings: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name -> what stands before and after an answer; `tag` and `after` are settings of the reward."""
    tag = settings.get("tag", "answer")
    found = {
        "boxed": (r"\boxed{", "}"),
        "in a sentence": ("The answer is ", "."),
        "alone": ("", ""),
        f"in <{tag}>": (f"<{tag}>", f"</{tag}>"),
        "in a code block": ("```\n", "\n```"),
    }
    markers = dict.fromkeys(marker for marker in (settings.get("after"), source.answer_after) if marker)
    return found | {
        f"{name} after {marker!r}": (f"{marker} {before}", after)
        for marker in markers
        for name, (before, after) in found.items()
    }


def spelt_otherwise(answer: str) -> str:
    r"""The same answer in another spelling: \frac{1}{2} as \dfrac{1}{2}, 1200 as 1,200, and others in dollars."""
    if r"\frac" in answer:
        return answer.replace(r"\frac", r"\dfrac")
    return f"{int(answer):,}" if _LARGE.fullmatch(answer) and len(answer) < 100 else f"${answer}$"


def wrong_answers(prompts: Sequence[Prompt]) -> dict[str, dict[str, str]]:
    """Prompt id -> name -> an answer that should earn nothing; the other golds are left out where they are its own."""
    golds = [(golds_of(prompt) or [""])[0].strip() for prompt in prompts]
    distinct = Counter(gold for gold in golds if gold)
    most_common = distinct.most_common(1)[0][0] if distinct else ""
    found = {}
    for index, prompt in enumerate(prompts):
        others = (golds[(index + step) % len(golds)] for step in range(1, len(golds)))
        other = next((gold for gold in others if gold and gold != golds[index]), "")
        wrong = {OTHER_GOLD: other, SAME_GOLD: most_common} | {text: text for text in (ZERO, NAN, UNKNOWN, GARBAGE)}
        found[prompt.id] = {name: text for name, text in wrong.items() if text}
    return found


def thought_tags(settings: Mapping[str, Any], template: str) -> tuple[str, str]:
    """The closing and the opening tag of thoughts: by the setting, else as the chat template has it, else the first."""
    tags = tags_of(settings.get("thoughts_end"))
    return next((pair for pair in tags.items() if pair[0] and pair[0] in template), next(iter(tags.items())))


def thought(prompt_text: str, closing: str, opening: str) -> str:
    """A short thought between two tags; its opening tag is left out where the prompt ends with it."""
    return f"{'' if prompt_text.rstrip().endswith(opening) else opening}Is it {GARBAGE}?{closing}\n"


def opened_thought(prompt_text: str, settings: Mapping[str, Any]) -> str:
    """A finished thought, which comes before an answer where the prompt has opened the thoughts; else nothing."""
    tags = tags_of(settings.get("thoughts_end")).items()
    opened = [pair for pair in tags if pair[1] and prompt_text.rstrip().endswith(pair[1])]
    return thought(prompt_text, *opened[0]) if opened else ""
