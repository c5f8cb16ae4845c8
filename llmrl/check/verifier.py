"""A run of the rewards on the data's own answers, and on answers that should earn nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmrl.check import writing
from llmrl.check.grading import all_failed, grades_cheaply, score_within, understood
from llmrl.check.report import Report
from llmrl.check.verdict import Graded, judge
from llmrl.data.prompts import LoadedPrompts
from llmrl.data.written import Written
from llmrl.errors import short
from llmrl.models.text import Decode, decoder
from llmrl.recipe import Recipe
from llmrl.recipe_moves import part_columns
from llmrl.rewards.base import Rewards
from llmrl.rewards.respondents import roles_asked_by
from llmrl.rewards.reward import Reward
from llmrl.rewards.services import health_fault
from llmrl.rewards.votes import read_answer
from llmrl.rewards.workers import Workers
from llmrl.run.models import Origin
from llmrl.types import ACTOR, Prompt, Score, Trajectory, Turn

ROWS_TO_FIND_WAYS = 16
WAYS_FOR_ALL_ROWS = 3
ROWS_FOR_WRONG_ANSWERS = 1000
ROWS_OF_A_JUDGE = 4
SECONDS = 20.0
"""The time that may be spent on each reward."""


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
    """Run each reward on the rows' gold answers and on wrong answers, in killable processes as training does.

    Gold answers are written as a model may write them: the demonstration if there is one, else alone, boxed, in a
    sentence, tagged, fenced, or behind the marker that a setting names. The first rows show which of these ways the
    reward reads, and all rows are graded in those; at most ROWS_FOR_WRONG_ANSWERS rows, spread evenly, get wrong
    answers. An async or a group's reward, which may cost much, is asked about the first rows alone.
    """
    rows = (prompts.train if samples else []) + prompts.eval
    if not rows or not rewards.rewards:
        report.say("rewards", "none, so nothing is graded")
        return
    sources = {"eval": prompts.sources["train"], **prompts.sources}
    template = str(origin.tokenizer.chat_template or "") if prompts.sources["train"].chat else ""
    decode = decoder(origin.tokenizer, origin.stop_token_ids)
    gave: dict[str, bool | None] = {}
    for reward in rewards.rewards:
        if told := sorted({"episode", "trajectory"} & set(reward.piece.data)):
            report.skipped(f"rewards.{reward.name}", f"it reads the {told[0]}, which a gold answer alone does not make")
            continue
        if told := sorted(set(reward.columns) & set(part_columns(recipe.moves))):
            report.skipped(f"rewards.{reward.name}", f"it reads {told[0]}, a part of a text that only a run brings")
            continue
        if roles := roles_asked_by(reward.piece):
            report.skipped(f"rewards.{reward.name}", f"it asks {', '.join(sorted(roles))}, who samples in a run alone")
            continue
        if reward.piece.mark("reads_token_texts"):
            report.skipped(f"rewards.{reward.name}", "it rewards tokens by their text, which a run alone samples")
            continue
        if reward.loading:
            report.skipped(f"rewards.{reward.name}", "its models are loaded when the stage begins")
            continue
        if down := asyncio.run(health_fault(reward.piece)):
            report.warn(f"rewards.{reward.name}: {down}; it was not run")
            continue
        ways = {part: writing.ways(source, reward.piece.settings) for part, source in sources.items()}
        writer = _Writer(reward, ways, prompts.demonstrations, origin.tokenizer, decode)
        gave[reward.name] = asyncio.run(_check(writer, rows, workers, template, report))
    _check_verdicts(rewards.rewards, gave, report)


@dataclass(frozen=True)
class _Writer:
    """Writes the completions that one reward grades, with tokens and verdicts only where the reward reads them.

    ways: "train" or "eval" -> the ways in which its answers are written (llmrl.check.writing.ways).
    """

    reward: Reward
    ways: Mapping[str, Mapping[str, tuple[str, str]]]
    demonstrations: Mapping[str, Written]
    tokenizer: Any
    decode: Decode

    def only(self, names: Sequence[str]) -> _Writer:
        """The same writer with the ways of these names alone; with all of its ways if there are no names."""
        kept = {part: {name: ways[name] for name in names if name in ways} or ways for part, ways in self.ways.items()}
        return replace(self, ways=kept)

    def golds(self, prompt: Prompt) -> dict[str, list[Trajectory]]:
        """Way -> the row's gold answers, written in that way."""
        if prompt.id in self.demonstrations:
            text = self.decode(self.demonstrations[prompt.id].spans[-1].token_ids)
            return {"demonstration": [self._trajectory(prompt, text, right=True)]}
        golds = writing.golds_of(prompt)
        return {way: [self._answer(prompt, gold, way) for gold in golds] for way in self._ways(prompt) if golds}

    def all_answers(self, prompt: Prompt, wrong: Mapping[str, str]) -> Graded:
        """The row's gold answers, and in the first way the wrong ones, and for a reader of golds golds respelt."""
        first = next(iter(self._ways(prompt)))
        reads_golds = self.reward.piece.mark("reading") and "answer" in self.reward.columns
        golds = writing.golds_of(prompt) if reads_golds and prompt.id not in self.demonstrations else []
        respelt = [self._answer(prompt, writing.spelt_otherwise(gold), first) for gold in golds]
        answers = {name: self._answer(prompt, text, first, right=False) for name, text in wrong.items()}
        if writing.UNKNOWN in wrong:  # a sentence without an answer stands in no answer's place
            answers[writing.UNKNOWN] = self._trajectory(prompt, writing.UNKNOWN, right=False)
        return Graded(prompt, self.golds(prompt), respelt, answers)

    def example(self, prompt: Prompt, closing: str, opening: str) -> str:
        """The row's gold after a thought between these tags; without one where no tag ends it."""
        text = next(iter(self.golds(prompt).values()))[0].text.removeprefix(self._opened(prompt))
        return (writing.thought(prompt.text, closing, opening) if closing else "") + text

    def _opened(self, prompt: Prompt) -> str:
        return writing.opened_thought(prompt.text, self.reward.piece.settings)

    def _ways(self, prompt: Prompt) -> Mapping[str, tuple[str, str]]:
        return self.ways[prompt.id.partition(":")[0]]

    def _answer(self, prompt: Prompt, answer: str, way: str, *, right: bool = True) -> Trajectory:
        before, after = self._ways(prompt)[way]
        return self._trajectory(prompt, f"{before}{answer}{after}", right=right)

    def _trajectory(self, prompt: Prompt, text: str, *, right: bool) -> Trajectory:
        text = self._opened(prompt) + text
        token_ids = self.tokenizer.encode(text, add_special_tokens=False) if self.reward.reads_tokens else []
        verdict = {"the check": Score(float(right), right)} if self.reward.reads_verdicts else {}
        return Trajectory(prompt, [Turn(ACTOR, token_ids)], "stop", text, scores=verdict)


async def _check(
    writer: _Writer, rows: Sequence[Prompt], workers: Workers, template: str, report: Report
) -> bool | None:
    """Check one reward; returns whether it gave verdicts, or None if it gave nothing at all."""
    reward = writer.reward
    rows = [prompt for prompt in rows if reward.scores(prompt.row)]
    if not rows:
        report.warn(f"rewards.{reward.name}: no row of the data is one of its rows, {dict(reward.rows)}")
        return None
    rows = rows if grades_cheaply(reward) else rows[:ROWS_OF_A_JUDGE]
    graded = [Graded(prompt, writer.golds(prompt)) for prompt in rows[:ROWS_TO_FIND_WAYS]]
    scored = await score_within(reward, [one.group for one in graded], workers, SECONDS)
    writer = writer.only(_ways_read(reward, graded[:scored]))
    await _show_reading(writer, rows, workers, template, report)
    await _count_understood(reward, rows, workers, report)
    if not all_failed([one.group for one in graded[:scored]]):
        wrong = writing.wrong_answers(rows[:: math.ceil(len(rows) / ROWS_FOR_WRONG_ANSWERS)])
        graded = [writer.all_answers(prompt, wrong.get(prompt.id, {})) for prompt in rows]
        scored = await score_within(reward, [one.group for one in graded], workers, SECONDS)
    judge(reward, graded[:scored], len(rows), report)
    if any(one.verdicts(reward.name) for one in graded[:scored]):
        return True
    return False if any(t.scores for one in graded[:scored] for t in one.group.trajectories) else None


def _check_verdicts(rewards: Sequence[Reward], gave: Mapping[str, bool | None], report: Report) -> None:
    """Add a fault for each reward that needs verdicts, if all others that might give them gave numbers alone."""
    asked = [reward.name for reward in rewards if reward.may_give_verdicts]
    if asked and all(gave.get(name) is False for name in asked):
        found = f"reads the verdict of another reward, and {', '.join(asked)} gave none on these rows"
        hint = "return a bool or a Score with `correct`, or add a verifier"
        report.faults += [f"rewards.{reward.name}: {found}; {hint}" for reward in rewards if reward.needs_verdicts]


def _ways_read(reward: Reward, graded: Sequence[Graded]) -> list[str]:
    """The first ways in which the reward accepts a gold, or, where it gives no verdicts, the one that earns most."""
    ways = list(dict.fromkeys(way for one in graded for way in one.golds))
    if not any(one.verdicts(reward.name) for one in graded):
        earned = {way: math.fsum(one.earned(way, reward.name) for one in graded) for way in ways}
        return sorted(ways, key=lambda way: -earned[way])[:1]
    return [way for way in ways if any(one.accepts(way) for one in graded)][:WAYS_FOR_ALL_ROWS]


async def _show_reading(
    writer: _Writer, rows: Sequence[Prompt], workers: Workers, template: str, report: Report
) -> None:
    """Print which part of an example completion the verifier reads, and which tag ends its thoughts."""
    reward = writer.reward
    reading, settings = reward.piece.mark("reading"), dict(reward.piece.settings)
    prompt = next((prompt for prompt in rows if writing.golds_of(prompt)), None)
    if reading is None or prompt is None:
        return
    closing, opening = writing.thought_tags(settings, template)
    if closing and closing in template:
        report.say("thoughts", f"the chat template ends them with {closing}")
    example = writer.example(prompt, closing, opening)
    try:
        found = await workers.run(
            read_answer, [reward.piece, example, prompt.text, dict(prompt.row)], {}, reward.deadline_seconds
        )
    except Exception as error:
        report.warn(f"rewards.{reward.name}: it cannot read {short(example)}: {error}")
        return
    report.say("reads", f"{'no answer' if found is None else short(found.strip())} in {short(example)}")


async def _count_understood(reward: Reward, rows: Sequence[Prompt], workers: Workers, report: Report) -> None:
    """Warn of golds that the verifier does not understand, of which nothing but the same text is right."""
    reading = reward.piece.mark("reading")
    asked = [prompt for prompt in rows if writing.golds_of(prompt)]
    if reading is None or reading.understands is None or not asked:
        return
    found = await understood(reward, [prompt.row["answer"] for prompt in asked], workers, SECONDS)
    lost = [prompt for prompt, is_understood in zip(asked, found, strict=False) if not is_understood]
    if not lost:
        return
    first = ", ".join(f"{prompt.id} {short(prompt.row['answer'])}" for prompt in lost[:3])
    text = f"{len(lost)} of {len(found)} golds are not understood, so of these only the same text is right: {first}"
    if len(lost) == len(found):
        report.faults.append(f"rewards.{reward.name}: {text}")
    else:
        report.warn(f"rewards.{reward.name}: {text}")
