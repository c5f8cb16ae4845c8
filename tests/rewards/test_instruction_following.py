from __future__ import annotations

import time

import pytest

from llmrl.rewards.instruction_following import instruction_following
from llmrl.rewards.instructions import CHECKS
from llmrl.types import Score

THREE = "One\n\nTwo words\n\nThree"
AT_LEAST, LESS = "at least", "less than"
TEXTS: dict[str, list[tuple[dict, str, str]]] = {
    "keywords:existence": [
        ({"keywords": ["cat", "Dog"]}, "A CAT and a dogma", "a cat"),
        ({"keywords": ["c++"]}, "C++", "c"),
    ],
    "keywords:frequency": [
        ({"keyword": "an", "frequency": 2, "relation": AT_LEAST}, "An antenna", "an hour"),
        ({"keyword": "an", "frequency": 2, "relation": LESS}, "an hour", "An antenna"),
    ],
    "keywords:forbidden_words": [({"forbidden_words": ["cat", "dog"]}, "cats and dogma", "The Cat!")],
    "keywords:letter_frequency": [
        ({"letter": "E", "let_frequency": 3, "let_relation": AT_LEAST}, "Even there", "even"),
        ({"letter": "e", "let_frequency": 3, "let_relation": LESS}, "even", "Even there"),
    ],
    "length_constraints:number_sentences": [
        ({"num_sentences": 2, "relation": AT_LEAST}, "One. Two.", "One, e.g. this."),
        ({"num_sentences": 2, "relation": LESS}, "Mr. Smith left.", "One. Two."),
    ],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
        ({"num_paragraphs": 2}, "***\none *** two\n***", "one\n***\n***\ntwo"),
    ],
    "length_constraints:number_words": [
        ({"num_words": 4, "relation": AT_LEAST}, "it's three, no", "three words"),
        ({"num_words": 3, "relation": LESS}, "two words", "it's two"),
    ],
    "length_constraints:nth_paragraph_first_word": [
        ({"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Two"}, THREE, THREE + "\n\nFour"),
        ({"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "well"}, '"Well, yes', "So well"),
    ],
    "detectable_content:number_placeholders": [({"num_placeholders": 2}, "[name] of [town]", "[name] of (town)")],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, "Bye.\np. s. more", "Bye. PS more"),
        ({"postscript_marker": "P.P.S"}, "Bye. P. P. S more", "Bye. P.S. more"),
        ({"postscript_marker": "Note:"}, "note: more", "notes"),
    ],
    "detectable_format:number_bullet_lists": [
        ({"num_bullets": 2}, "* a\n - b", "* a\n- b\n- c"),
        ({"num_bullets": 1}, "* a\n** b", "a * b"),
    ],
    "detectable_format:constrained_response": [({}, "So: My answer is no. Really.", "my answer is no.")],
    "detectable_format:number_highlighted_sections": [({"num_highlights": 2}, "*a* **b**", "*a* * *")],
    "detectable_format:multiple_sections": [
        ({"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1 a SECTION2 b", "SECTION 1 a Section 2 b")
    ],
    "detectable_format:json_format": [({}, '```json\n{"a": [1]}\n```', "{'a': 1}"), ({}, " [1, 2] ", "Here: [1]")],
    "detectable_format:title": [({}, "<<Joy>> is", "<< >> is"), ({}, "a <<b c>>", "<b>")],
    "combination:two_responses": [
        ({}, "a\n******\nb", "a ****** a"),
        ({}, "****** a ****** b ******", "a ****** ****** b"),
    ],
    "combination:repeat_prompt": [({"prompt_to_repeat": "Say it. "}, " say IT. So", "So say it.")],
    "startend:end_checker": [({"end_phrase": " Any more?"}, 'Well. "any MORE?" ', "Any more? No.")],
    "startend:quotation": [({}, ' "all of it"\n', '"all" of it'), ({}, '""', '"')],
    "change_case:capital_word_frequency": [
        ({"capital_frequency": 2, "capital_relation": AT_LEAST}, "NASA and ESA", "Nasa and ESA"),
        ({"capital_frequency": 2, "capital_relation": LESS}, "Nasa and ESA", "NASA and ESA"),
    ],
    "language:response_language": [
        (
            {"language": "fr"},
            "Il fait beau aujourd'hui, et nous allons au parc.",
            "It is a nice day, and we go to the park.",
        )
    ],
    "change_case:english_capital": [
        ({}, "THIS IS ALL THE ENGLISH THAT WE HAVE HERE.", "THIS IS ALL the English that we have here.")
    ],
    "change_case:english_lowercase": [
        ({}, "this is all the english that we have here.", "heute ist das wetter schön, und wir gehen aus.")
    ],
    "punctuation:no_comma": [({}, "one; two", "one, two")],
}
NAMED = [(name, *case) for name, cases in TEXTS.items() for case in cases]
LANGUAGE = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")


def test_every_instruction_of_ifeval_is_tried():
    assert TEXTS.keys() == CHECKS.keys() and len(CHECKS) == 25


@pytest.mark.parametrize(("name", "arguments", "followed", "broken"), NAMED)
def test_an_instruction_is_told_from_its_neighbour(name, arguments, followed, broken):
    if name in LANGUAGE:
        pytest.importorskip("langdetect")
    everything = {"keywords": None, "num_words": None, "language": None} | arguments  # as files hold them
    assert instruction_following(followed, [name], [everything]) == Score(1.0, True)
    assert instruction_following(broken, [name], [everything]) == Score(0.0, False)


def test_the_share_of_several_and_the_thoughts():
    names = ["punctuation:no_comma", "detectable_format:title", "length_constraints:number_words"]
    arguments = [{}, None, {"num_words": 3, "relation": LESS}]
    assert instruction_following("<think>a, b, c, d</think> <<Joy>>", names, arguments) == Score(1.0, True)
    assert instruction_following("<<Joy>>, and joy", names, arguments) == Score(1 / 3, False)
    assert instruction_following("a</think> <<Joy>>", names, arguments, "Hm?<think>") == Score(1.0, True)
    for nothing in ("", " \n", "<think>a"):
        assert instruction_following(nothing, names, arguments) == Score(0.0, False)


@pytest.mark.parametrize(
    ("completion", "strict", "loose"),
    [
        ("Sure, here it is:\nyes; no", False, True),  # without the first line
        ("yes; no\nI hope, this helps", False, True),  # without the last one
        ("Sure,\nyes; no\nthanks, bye", False, True),  # without both
        ("yes, no", False, False),
        ("yes; no", True, True),
    ],
)
def test_loose_reading_leaves_lines_out(completion, strict, loose):
    found = [
        instruction_following(completion, ["punctuation:no_comma"], [{}], loose=way).correct for way in (False, True)
    ]
    assert found == [strict, loose]


def test_loose_reading_leaves_asterisks_out():
    end = [{"end_phrase": "the end"}]
    found = [
        instruction_following("**the end**", ["startend:end_checker"], end, loose=way).correct for way in (False, True)
    ]
    assert found == [False, True]


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (
            ["punctuation:no_coma"],
            [{}],
            "no instruction named 'punctuation:no_coma'; did you mean 'punctuation:no_comma'",
        ),
        (["keywords:existence"], [{"keyword": "a"}], "keywords:existence needs keywords, and has {'keyword': 'a'}"),
        (["keywords:existence"], [None], "needs keywords"),
        (["punctuation:no_comma"], [], "has 1 names and kwargs 0 entries"),
        ([], [], "at least one"),
        (
            ["keywords:frequency"],
            [{"keyword": "a", "frequency": 1, "relation": "over"}],
            "relation: 'over' is not valid",
        ),
    ],
)
def test_a_row_that_cannot_be_checked_is_a_fault(names, arguments, message):
    with pytest.raises(ValueError) as caught:
        instruction_following("a", names, arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("part", ["!", "[", "\n", "*", "- ", "A. ", "***\n", "n't"])
def test_long_texts_are_checked_in_no_time(part):
    known = {name: arguments for name, arguments, *_ in NAMED if name not in LANGUAGE}
    started = time.monotonic()
    instruction_following(part * 20_000, list(known), list(known.values()))
    assert time.monotonic() - started < 3
