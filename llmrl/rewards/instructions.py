"""The instructions of IFEval that a program can check, each by its name in the data.

A check takes the text, then the instruction's arguments by their names in the data. Source: Zhou et al.,
Instruction-Following Evaluation for Large Language Models, arXiv 2311.07911.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from llmrl.rewards.english import capital_words, language_of, sentence_count

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
"""The two markers of the data, with the blanks that they may have."""


def _compared(count: int, relation: str, threshold: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"relation: {relation!r} is not valid, expected 'at least' or 'less than'")
    return count >= threshold if relation == "at least" else count < threshold


def _existence(text: str, keywords: Sequence[str]) -> bool:
    return all(keyword.lower() in text.lower() for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    return _compared(text.lower().count(keyword.lower()), relation, frequency)


def _forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    return _compared(text.lower().count(letter.lower()), let_relation, let_frequency)


def _response_language(text: str, language: str) -> bool:
    return language_of(text) in (language, None)


def _number_sentences(text: str, num_sentences: int, relation: str = "at least") -> bool:
    return _compared(sentence_count(text), relation, num_sentences)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    return _blocks(text, r"\s?\*\*\*\s?") == num_paragraphs


def _blocks(text: str, separator: str) -> int | None:
    """How many parts have text in them; None if an inner one has none."""
    parts = [part.strip() for part in re.split(separator, text)]
    return sum(map(bool, parts)) if all(parts[1:-1]) else None


def _number_words(text: str, num_words: int, relation: str = "at least") -> bool:
    return _compared(len(re.findall(r"\w+", text)), relation, num_words)


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    if sum(map(bool, paragraphs)) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    words = paragraphs[nth_paragraph - 1].split()
    return bool(words) and re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower() == first_word.lower()


def _number_placeholders(text: str, num_placeholders: int) -> bool:
    found = re.findall(r"\[[^\]\n]*+(\]?)", text)  # an open one is taken to its line's end, so no part is read twice
    return sum(map(bool, found)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    form = POSTSCRIPTS.get(postscript_marker) or re.escape(postscript_marker.lower())
    return bool(re.search(form, text.lower()))


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    forms = (r"^[^\S\n]*\*[^*].*", r"^[^\S\n]*-.*")
    return sum(len(re.findall(form, text, re.MULTILINE)) for form in forms) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(answer in text for answer in ANSWERS)


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(one.strip("*").strip()) for one in found) >= num_highlights


def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json_format(text: str) -> bool:
    inside = re.sub(r"\A```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```")
    try:
        json.loads(inside)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    responses = [part.strip() for part in text.split("******") if part.strip()]
    return _blocks(text, r"\*{6}") == 2 and responses[0] != responses[1]


def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    return _compared(capital_words(text), capital_relation, capital_frequency)


def _english_capital(text: str) -> bool:
    return text.isupper() and language_of(text) in ("en", None)


def _english_lowercase(text: str) -> bool:
    return text.islower() and language_of(text) in ("en", None)


def _no_comma(text: str) -> bool:
    return "," not in text


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}
