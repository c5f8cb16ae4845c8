"""Grade every gold answer of a GSM8K-style file against itself and against a wrong one, and time it.

    python scripts/grade_gsm8k.py train.jsonl

Each row's gold is what follows "####" in `answer`. "The answer is N" and "\\boxed{N}" must be correct, the same
with N + 1 wrong. Prints the mistakes, and grades per second in this process and in pools of 1 and 2 processes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from decimal import Decimal
from pathlib import Path

from llmrl.rewards.math_verifier import math_verifier, warm_up
from llmrl.rewards.workers import Workers

Case = tuple[str, str, bool]


def cases(path: Path) -> list[Case]:
    """(completion, gold, whether it is correct): four for each row."""
    found = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            gold = json.loads(line)["answer"].rpartition("####")[2].strip()
            other = str(Decimal(gold.replace(",", "")) + 1)
            for number, correct in ((gold, True), (other, False)):
                found.append((f"The answer is {number}", gold, correct))
                found.append((f"So the result is \\boxed{{{number}}}.", gold, correct))
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
        mistakes += asyncio.run(in_pool(checked, count))
    return int(mistakes > 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/grade_gsm8k.py FILE.jsonl")
    sys.exit(main(Path(sys.argv[1])))
