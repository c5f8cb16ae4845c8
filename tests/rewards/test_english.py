from __future__ import annotations

import sys

import pytest

from llmrl.rewards.english import _langdetect, capital_words, language_of, sentence_count


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("no end", 1),
        ("One. Two! Three?", 3),
        ("One. and two.", 2),
        ("Dr. Smith met Mr. Jones at 5 p.m. on Fri. in the U.S. with J. R. Tolkien.", 1),
        ("We saw cats, dogs, etc. They slept.", 2),
        ("It costs 3.50 at example.com today. Good.", 2),
        ('He said "Stop!" and left. "Why?" she asked.', 4),  # Punkt, too, ends a sentence at every ! and ?
        ("Well... maybe. Well... Maybe.", 3),  # two to Punkt, which knows no sentence that begins with Maybe
        ("A title\n\nFirst sentence.\nSecond one.", 2),  # a new line ends nothing
        ("1. Apples\n2. Pears", 3),  # numbers of a list stand for sentences
        ("(It rained.) We left.", 2),
    ],
)
def test_sentence_count(text, sentences):
    assert sentence_count(text) == sentences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("NASA and the U.S. are ABBREVIATIONS.", 3),
        ("I DON'T know", 3),  # I, DO, N'T
        ("IT\u2019S well-KNOWN and WELL-KNOWN", 3),  # IT, S, WELL-KNOWN
        ('**BOLD** (HQ) "OK" A/B X1 10AM 2024 A--B ONE:TWO 10:30AM', 11),
        ("CANNOT GONNA", 4),
        ("Title Case only", 0),
    ],
)
def test_capital_words(text, words):
    assert capital_words(text) == words


def test_language_of():
    pytest.importorskip("langdetect")
    assert language_of("The weather is nice today and we will go to the park.") == "en"
    assert language_of("Das Wetter ist heute schön, und wir gehen in den Park.") == "de"
    assert language_of("12345 !!!") is None


def test_without_langdetect_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    _langdetect.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'llmrl\[ifeval\]'"):
        language_of("Hello")
    _langdetect.cache_clear()
