"""Grade every gold answer of a GSM8K-style file in many spellings, and the same of wrong answers, and time it.

    python scripts/grade_gsm8k.py train.jsonl

Each row's gold is what follows "####" in `answer`. Every spelling of N must be correct, and every spelling of other
numbers near N wrong. Prints the mistakes of each spelling, and grades per second in this process and in pools of 1 and
2 processes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from llmrl.rewards.math_verifier import math_verifier, warm_up
from llmrl.rewards.workers import Workers

Case = tuple[str, str, bool]


SPELLINGS: dict[str, Callable[[str], str]] = {
    "sentence": lambda n: f"The answer is {n}",
    "boxed": lambda n: f"So the result is \\boxed{{{n}}}.",
    "boxed formula": lambda n: f"$\\boxed{{{n}}}$",
    "after thoughts": lambda n: f"<think>Perhaps \\boxed{{{n}1}}?</think>It is \\boxed{{{n}}}",
    "answer line": lambda n: f"3 + 4 = 7\n\n**Answer:** {n}",
    "equation": lambda n: f"\\boxed{{x = {n}}}",
    "named": lambda n: f"\\boxed{{\\text{{Total}} = {n}}}",
    "dollars": lambda n: f"It costs \\$ {n}.",
    "boxed dollars": lambda n: f"\\boxed{{\\${n}}}",
    "unit": lambda n: f"\\boxed{{{n}\\text{{ apples}}}}",
    "decimal": lambda n: f"\\boxed{{{n if '.' in n else n + '.00'}}}",
    "thousands": lambda n: f"\\boxed{{{Decimal(n):,}}}",
    "LaTeX thousands": lambda n: "\\boxed{" + f"{Decimal(n):,}".replace(",", "{,}") + "}",
    "thin spaces": lambda n: "\\boxed{" + f"{Decimal(n):,}".replace(",", "\\,") + "}",
    "fraction": lambda n: f"\\boxed{{\\frac{{{Fraction(n).numerator}}}{{{Fraction(n).denominator}}}}}",
    "coloured": lambda n: f"\\boxed{{\\color{{red}}{{{n}}}}}",
    "bold": lambda n: f"**{n}**",
    "Chinese": lambda n: f"\u6240\u4ee5\u7b54\u6848\u662f{n}\u3002",
    "scientific": lambda n: f"\\boxed{{{Decimal(n):e}}}",
    "with a remark": lambda n: f"So we get {n} (see step 2).",
    "formula": lambda n: f"Therefore it is ${n}$.",
    "hash": lambda n: f"#### {n}",
}
OTHERS: tuple[Callable[[Decimal], Decimal], ...] = (
    lambda n: n + 1,
    lambda n: n * 10 if n else n + 2,
    lambda n: n + Decimal("0.5"),
)


def cases(path: Path) -> list[Case]:
    """(completion, gold, whether it is correct) for each row, spelling and number."""
    found = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            gold = json.loads(line)["answer"].rpartition("####")[2].strip()
            number = Decimal(gold.replace(",", ""))
            for spell in SPELLINGS.values():
                found.append((spell(f"{number:f}"), gold, True))
                found += [(spell(f"{other(number):f}"), gold, False) for other in OTHERS]
    return found


def report(where: str, checked: list[Case], verdicts: list[bool], seconds: float) -> int:
    wrong = [case for case, verdict in zip(checked, verdicts, strict=True) if case[2] != verdict]
    called_wrong = sum(correct for _, _, correct in wrong)
    print(
        f"{where}: {len(checked)} grades, {called_wrong} correct answers called wrong, "
        f"{len(wrong) - called_wrong} wrong answers called correct, {len(checked) / seconds:.0f} grades/s"
    )
    for completion, gold, _ in wrong[:5]:
        print(f"  {completion!r} against {gold!r}")
    return len(wrong)


POOLED = 30_000
"""The grades that are timed in a pool."""


async def in_pool(checked: list[Case], count: int) -> int:
    with Workers(count) as workers:
        workers.warm(["llmrl.rewards.math_verifier"])
        await workers.run(math_verifier, checked[0][:2], {}, 10.0)
        start = time.perf_counter()
        scores = await asyncio.gather(*(workers.run(math_verifier, case[:2], {}, 10.0) for case in checked))
        seconds = time.perf_counter() - start
    return report(f"pool of {count}", checked, [score.correct for score in scores], seconds)


def main(path: Path) -> int:
    checked = cases(path)
    warm_up()
    start = time.perf_counter()
    verdicts = [bool(math_verifier(completion, gold).correct) for completion, gold, _ in checked]
    mistakes = report("in process", checked, verdicts, time.perf_counter() - start)
    for count in (1, 2):
        mistakes += asyncio.run(in_pool(checked[:POOLED], count))
    return int(mistakes > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/grade_gsm8k.py FILE.jsonl")
    sys.exit(main(Path(sys.argv[1])))
