"""The part of a completion that comes after its thoughts."""

import pytest

from llmrl.rewards.thoughts import TAGS, after_thoughts


@pytest.mark.parametrize(
    ("completion", "part"),
    [
        ("9", "9"),
        ("<think>8?</think> 9", " 9"),
        ("8?</think> 9", " 9"),
        ("a</think> b </think> c", " c"),
        ("<think>a</think> 3 <think>or 4", " 3 "),
        ("<think>8?", None),
        ("a</think> <think>b", None),
        ("<thinking>x</thinking>y", "y"),
        ("", ""),
    ],
)
def test_the_part_after_the_thoughts(completion: str, part: str | None):
    assert after_thoughts(completion) == part


@pytest.mark.parametrize(("closing", "opening"), TAGS.items())
def test_every_public_pair_of_tags_is_known(closing: str, opening: str):
    assert after_thoughts(f"{opening}a{closing}b") == "b"
    assert after_thoughts(f"{opening}a") is None
    assert after_thoughts("a", f"question {opening}\n") is None
    assert after_thoughts(f"a{closing}b", f"question {opening}\n") == "b"
    assert after_thoughts("b", f"question {opening}\n\n{closing}\n\n") == "b"


def test_a_prompt_that_only_speaks_of_the_tag_opens_no_thoughts():
    assert after_thoughts("9", "Think inside <think>, then answer.") == "9"


def test_a_recipe_names_a_tag_of_its_own_or_none():
    assert after_thoughts("<plan>8</plan>9", thoughts_end="</plan>") == "9"
    assert after_thoughts("<plan>8", thoughts_end="</plan>") is None
    assert after_thoughts("8 ### 9", thoughts_end="###") == " 9"
    assert after_thoughts("<think>8", thoughts_end="</plan>") == "<think>8"
    assert after_thoughts("<think>8", thoughts_end="") == "<think>8"
