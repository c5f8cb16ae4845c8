"""A task for small models whose judges are models too: name the largest digit.

question      3728>
completions   8          the largest digit: a right answer
              7          the second largest: most demonstrations are such answers
              2          another digit, or one that is not in the question
"""

from __future__ import annotations

import random
from typing import Any

from llmrl.types import Score


def rows(size: int, seed: int, *, right_share: float = 0.4) -> list[dict[str, Any]]:
    """Rows with question, answer, and two completions, of which the better one is right in a share of rows.

    The judge learns from all pairs that a larger digit of the question is better; a policy that imitates the better
    completions answers rightly in `right_share` of its samples.
    """
    draw = random.Random(seed)
    found = []
    for _ in range(size):
        digits = draw.sample(range(10), 4)
        largest, second, *others = sorted(digits, reverse=True)
        better, worse = (
            (largest, draw.choice([second, *others])) if draw.random() < right_share else (second, others[0])
        )
        if draw.random() < 0.5:
            worse = draw.choice(sorted(set(range(10)) - set(digits)))
        found.append(
            {
                "question": "".join(map(str, digits)) + ">",
                "answer": str(largest),
                "better": str(better),
                "worse": str(worse),
            }
        )
    return found


def attempts(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with one completion each, and whether it is right."""
    found = []
    draw = random.Random(seed)
    for row in rows(size, seed, right_share=1.0):
        label = draw.random() < 0.5
        found.append({**row, "attempt": row["better" if label else "worse"], "label": label})
    return found


def answers_and_grades(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: half of them answers, most of which are second best, and half right grades of answers.

    grade   3728>8?     5 of the largest digit, 3 of the second largest, 1 of another, 0 of one that is not there
    """
    found = []
    for number, row in enumerate(rows(size, seed)):
        if number % 2:
            found.append({"question": row["question"], "completion": row["better"]})
            continue
        answer = str((seed + 7 * number // 2) % 10)
        found.append({"question": f"{row['question']}{answer}?", "completion": str(grade(row["question"], answer))})
    return found


def grade(question: str, answer: str) -> int:
    """The points of an answer."""
    ranked = sorted(question.rstrip(">"), reverse=True)
    return (5, 3, 1, 1)[ranked.index(answer)] if answer in ranked else 0


def answers_of_a_quality(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: answers to plain questions, most of them second best, and answers of a quality that is asked.

    9/3728>     8       8 and more: the largest digit; 5 to 7: the second largest; less: another
    """
    draw = random.Random(seed)
    found = []
    for number, row in enumerate(rows(size, seed, right_share=0.3)):
        if number % 2:
            found.append({"question": row["question"], "completion": row["better"]})
            continue
        quality = draw.randrange(1, 10)
        ranked = sorted(row["question"].rstrip(">"), reverse=True)
        answer = ranked[0] if quality >= 8 else ranked[1] if quality >= 5 else draw.choice(ranked[2:])
        found.append({"question": f"{quality}/{row['question']}", "completion": answer})
    return found


def answers_and_questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: answers, most of them second best, and new questions that are made of old ones.

    /3728>      3798>       one digit is another one
    """
    draw = random.Random(seed)
    found = []
    for number, row in enumerate(rows(size, seed)):
        if number % 2:
            found.append({"question": row["question"], "completion": row["better"]})
            continue
        digits = list(row["question"].rstrip(">"))
        digits[draw.randrange(4)] = draw.choice(sorted(set("0123456789") - set(digits)))
        found.append({"question": "/" + row["question"], "completion": "".join(digits) + ">"})
    return found


def answers_and_ratings(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: answers, what comes of an answer, and ratings of it at first sight and in hindsight.

    3728>       7           an answer, mostly second best
    3728>9/     -           what comes of it: + of the largest digit of the question
    3728>9?     9           the rating at first sight: the larger the digit, the better it sounds
    3728>9-?    1           the rating in hindsight: 9 after +, 1 after -
    """
    draw = random.Random(seed)
    found = []
    for number, row in enumerate(rows(size, seed)):
        said = row["answer"] if draw.random() < 0.4 else str(draw.randrange(10))
        came = "+" if said == row["answer"] else "-"
        about = f"{row['question']}{said}"
        kinds = {
            row["question"]: row["better"],
            f"{about}/": came,
            f"{about}?": said,
            f"{about}{came}?": "9" if came == "+" else "1",
        }
        question = list(kinds)[number % 4]
        found.append({"question": question, "completion": kinds[question]})
    return found


def dialogues(size: int, seed: int) -> list[dict[str, Any]]:
    """Trees of dialogues: a speaker answers, the other one says another digit, and the speaker stays or gives way."""
    draw = random.Random(seed)
    found = []
    for row in rows(size, seed, right_share=1.0):
        right, wrong = row["answer"], row["worse"]

        def turn(text: str, *turns: dict[str, Any], right: str = right) -> dict[str, Any]:
            return {"text": text, "correct": text == right, "turns": list(turns)}

        own, others = draw.sample([right, wrong], 2)
        tree = turn(own, turn(others, turn(own), turn(others)))
        found.append({"question": row["question"], "answer": right, "turns": [tree]})
    return found


def stubborn(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: a speaker who stays with its answer, whatever the other one says."""
    found = []
    for row in dialogues(size, seed):
        [own] = row["turns"]
        asked = (row["question"], own["text"], own["turns"][0]["text"], "")
        found.append({"question": "\n".join(asked), "completion": own["text"]})
    return found


def right_for(completion: str, prompt: str) -> Score:
    """1 for the largest digit of the question, told by the prompt alone; 0 too where the prompt is no question."""
    digits = prompt.rstrip(">")
    correct = digits.isdigit() and prompt.endswith(">") and completion == max(digits)
    return Score(float(correct), bool(correct))


def critiques(size: int, seed: int, *, right_share: float = 0.4) -> list[dict[str, Any]]:
    """Attempts with a critique to imitate: the largest digit, and the verdict that follows from it.

    3728>7?     8[[-]]      in `right_share` of rows; in others the digit is a random one of the question
    """
    draw = random.Random(seed)
    found = []
    for row in attempts(size, seed):
        seen = row["answer"] if draw.random() < right_share else draw.choice(row["question"].rstrip(">"))
        critique = f"{seen}[[{'+' if seen == row['attempt'] else '-'}]]"
        verdict = "+" if row["label"] else "-"
        asked = f"{row['question']}{row['attempt']}?"
        found.append({"question": asked, "completion": critique, "answer": verdict})
    return found


def right(completion: str, answer: str) -> Score:
    """1 for the largest digit."""
    return Score(float(completion == answer), completion == answer)
