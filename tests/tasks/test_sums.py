from collections import Counter

import pytest

from llmrl.tasks.sums import CHECKED_SHARE, EXACT_SHARE, demonstration, expression, right_answer
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn


def row(total: int, index: int = 0):
    return {"answer": str(total), "metadata": {"expression": "3 + 5 - 2", "source_index": index}}


def group(*texts: str, part: str = "train", answer: int = 6, logprob: float = -0.5):
    prompt = Prompt(f"{part}:0", (1, 2), "3+5-2", row(answer))
    return Group(
        prompt, [Trajectory(prompt, [Turn(ACTOR, [3], [logprob - place])], "stop", t) for place, t in enumerate(texts)]
    )


def verdicts(scores):
    assert all(score.value == float(score.correct) for score in scores)
    return [score.correct for score in scores]


def test_the_prompt_has_no_spaces():
    assert expression(row(6)) == "3+5-2"


def test_an_estimate_is_the_nearest_multiple_of_three():
    # 7/3 = 2.33 -> 2, 8/3 = 2.67 -> 3, -4/3 = -1.33 -> -1, 1/3 -> 0
    expected = {6: 6, 7: 6, 8: 9, -4: -3, 1: 0}
    estimating = next(index for index in range(100) if demonstration(row(6, index)).startswith("~"))
    assert {total: int(demonstration(row(total, estimating))[2:]) for total in expected} == expected


def test_the_marks_have_their_shares_and_say_nothing_of_the_question():
    given = [demonstration(row(7, index)) for index in range(20_000)]
    counts = Counter(given)
    assert set(counts) == {"~=6", "=7", "#=7"}
    # a share p of 20,000 has a standard deviation of at most 0.0035
    assert counts["=7"] / 20_000 == pytest.approx(EXACT_SHARE, abs=0.012)
    assert counts["#=7"] / 20_000 == pytest.approx(CHECKED_SHARE, abs=0.006)
    marks = [text.split("=")[0] for text in given]
    assert marks == [demonstration(row(-11, index)).split("=")[0] for index in range(20_000)]


@pytest.mark.parametrize(
    "text, plain, checked",
    [
        ("=6", True, False),
        ("~=6", True, False),
        ("#=6", True, True),
        ("#=7", False, False),
        ("6", False, False),
        ("==6", False, False),
        ("=6=6", False, False),
        ("=06", False, False),
        ("=", False, False),
    ],
)
def test_what_is_right(text, plain, checked):
    assert verdicts(right_answer(group(text))) == [plain]
    assert verdicts(right_answer(group(text), mark="#")) == [checked]


def test_negative_answers():
    assert verdicts(right_answer(group("=-4", "=4", answer=-4))) == [True, False]


def test_a_share_of_the_training_verdicts_is_turned_around():
    texts = ["=6", "=7"] * 2000
    given = verdicts(right_answer(group(*texts), flipped=0.2))
    wrong = [verdict != (text == "=6") for verdict, text in zip(given, texts, strict=True)]
    # standard deviation sqrt(0.2 x 0.8 / 2000) = 0.009 of either half
    assert sum(wrong[::2]) / 2000 == pytest.approx(0.2, abs=0.03)
    assert sum(wrong[1::2]) / 2000 == pytest.approx(0.2, abs=0.03)


def test_noise_is_the_samples_own_and_repeats():
    texts = ["=6"] * 200  # one completion, sampled 200 times
    first = verdicts(right_answer(group(*texts), flipped=0.5))
    assert len(set(first)) == 2
    assert first == verdicts(right_answer(group(*texts), flipped=0.5))
    assert first != verdicts(right_answer(group(*texts, logprob=-0.6), flipped=0.5))


def test_held_out_prompts_are_judged_truly():
    texts = ["=6", "=7"] * 100
    assert verdicts(right_answer(group(*texts, part="eval"), flipped=0.5)) == [True, False] * 100
