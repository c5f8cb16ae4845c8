"""A run of the rewards on the data's own answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llmrl.check.report import Report
from llmrl.data.prompts import LoadedPrompts
from llmrl.recipe import Recipe, Rows
from llmrl.rewards.base import Reward, Rewards
from llmrl.rewards.workers import Workers
from llmrl.run.models import Origin
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

ROWS_OF_EACH_PART = 4
GARBAGE = "qqq zzz qqq"


def check_rewards(
    rewards: Rewards,
    recipe: Recipe,
    prompts: LoadedPrompts,
    origin: Origin,
    workers: Workers,
    report: Report,
    *,
    samples: bool,
) -> None:
    """Run each reward on the gold answers of the first rows, in killable processes as training does.

    A verifier (a reward that gives verdicts) must accept a row's gold in one form at least: the demonstration if
    there is one, else the plain answer, boxed, tagged, fenced, or behind the marker that a setting names; and it must
    not accept garbage. Other rewards only must not fail. A problem of every row is a fault, of some rows a warning.
    """
    rows = (prompts.train[:ROWS_OF_EACH_PART] if samples else []) + prompts.eval[:ROWS_OF_EACH_PART]
    if not rows or not rewards.rewards:
        report.say("rewards", "none, so nothing is graded")
        return
    for reward in rewards.rewards:
        if "episode" in reward.piece.data:
            report.skipped(f"rewards.{reward.name}", "it reads the episode, which a gold answer alone does not make")
            continue
        graded = [_answers(reward, row, recipe, prompts, origin) for row in rows]
        asyncio.run(_score_all(Rewards([reward], workers=workers), graded))
        _judge(reward, graded, report)


async def _score_all(alone: Rewards, groups: Sequence[Group]) -> None:
    await asyncio.gather(*(alone.score(group) for group in groups))


def _answers(reward: Reward, prompt: Prompt, recipe: Recipe, prompts: LoadedPrompts, origin: Origin) -> Group:
    """A trajectory for each form of the row's gold answer, and garbage as the last one."""
    tokenizer: Any = origin.tokenizer
    source = recipe.data.eval if prompt.id.startswith("eval") and recipe.data.eval else recipe.data.train
    if prompt.id in prompts.demonstrations:
        texts = [tokenizer.decode(prompts.demonstrations[prompt.id], skip_special_tokens=True)]
    else:
        texts = gold_forms(prompt, source, dict(reward.piece.settings))
    trajectories = [
        Trajectory(prompt, [Turn(ACTOR, tokenizer.encode(text, add_special_tokens=False))], "stop", text)
        for text in (*texts, GARBAGE)
    ]
    return Group(prompt, trajectories)


def gold_forms(prompt: Prompt, source: Rows, settings: dict[str, Any]) -> list[str]:
    r"""The ways in which a completion may give the row's gold answer.

    answer   \boxed{answer}   <tag>answer</tag>   ```answer```   #### answer      tag, after: the reward's own settings
    """
    answer = str(prompt.row.get("answer"))
    tag = settings.get("tag", "answer")
    forms = [answer, rf"\boxed{{{answer}}}", f"<{tag}>{answer}</{tag}>", f"```\n{answer}\n```"]
    markers = [marker for marker in (settings.get("after"), source.answer_after) if marker]
    return forms + [f"{marker} {form}" for marker in markers for form in forms]


def _judge(reward: Reward, graded: list[Group], report: Report) -> None:
    key = f"rewards.{reward.name}"
    values = [t.scores[reward.name] for g in graded for t in g.trajectories if reward.name in t.scores]
    is_verifier = any(score.correct is not None for score in values)
    problems: dict[str, list[tuple[Group, str]]] = {"failed": [], "rejected": [], "accepted garbage": []}
    for one in graded:
        *forms, garbage = one.trajectories
        failed = next((t for t in one.trajectories if t.failure), None)
        if failed is not None and failed.failure is not None:
            text = f"failed ({failed.failure.kind}) on {failed.text[:200]!r}: {failed.failure.message}"
            problems["failed"].append((one, text))
            continue
        if is_verifier and not any(t.correct for t in forms):
            gold, tried = str(one.prompt.row.get("answer"))[:200], ", ".join(repr(t.text[:200]) for t in forms)
            text = f"does not accept the row's own gold answer {gold!r}; graded {tried}"
            problems["rejected"].append((one, text))
        if is_verifier and garbage.correct:
            problems["accepted garbage"].append((one, f"accepts {GARBAGE!r} as a right answer"))
    for found in problems.values():
        if not found:
            continue
        first, text = found[0]
        problem = f"{key}: {text} ({len(found)} of {len(graded)} rows, the first is {first.prompt.id})"
        if len(found) == len(graded):
            report.faults.append(problem)
        else:
            report.warn(problem)
    if not any(problems.values()):
        verdict = "accepts their own answers, refuses garbage" if is_verifier else "no verifier; ran without failure"
        report.say("reward", f"{reward.name}, weight {reward.weight:g}: {verdict} ({len(graded)} rows)")
