"""The end of a model's thoughts: the part of a completion that every verifier reads.

completion ──after_thoughts──> the answering part ──the verifier's own extraction──> what is graded

Thoughts stand between an opening and a closing tag. A chat template may have written the opening tag at the end of the
prompt already.
"""

from __future__ import annotations

TAGS = {
    "</think>": "<think>",
    "</thinking>": "<thinking>",
    "</thought>": "<thought>",
    "</reasoning>": "<reasoning>",
    "</seed:think>": "<seed:think>",
    "[/THINK]": "[THINK]",
    "◁/think▷": "◁think▷",
    "<|end_of_thought|>": "<|begin_of_thought|>",
    "<|channel|>final<|message|>": "<|channel|>analysis",
}
"""The closing and the opening tags that public models write."""


def after_thoughts(completion: str, prompt: str = "", *, thoughts_end: str | None = None) -> str | None:
    """Return the part of a completion that comes after its thoughts; None if the thoughts were not finished.

        "<think>8?</think> 9"    " 9"          "9"              "9"       no thoughts
        "<think>8?"              None          "8?</think> 9"   " 9"      the prompt may have opened them

    Thoughts that are opened anew after the last closing tag are cut away. prompt: the prompt's text as the model got
    it, which opens the thoughts if it ends with the opening tag. thoughts_end: the closing tag, whose opening tag is
    the same text without its "/"; default: each of TAGS; "": no text is a thought.
    """
    part = completion
    opened_by_prompt = False
    for closing, opening in tags_of(thoughts_end).items():
        if not closing:
            continue
        _, closed, after = part.rpartition(closing)
        opened_by_prompt |= bool(opening) and not closed and prompt.rstrip().endswith(opening)
        answer, reopened, _ = after.partition(opening) if opening else (after, "", "")
        if reopened and not answer.strip():
            return None
        part = answer
    return None if opened_by_prompt else part


def tags_of(thoughts_end: str | None) -> dict[str, str]:
    """Return the closing tags with their opening ones, "" for one without: all of TAGS, or the one that is given."""
    if thoughts_end is None:
        return TAGS
    opening = thoughts_end.replace("/", "", 1) if "/" in thoughts_end else ""
    return {thoughts_end: TAGS.get(thoughts_end) or opening}
