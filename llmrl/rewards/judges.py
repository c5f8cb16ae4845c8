"""Judges: language models that compare answers, or score them: behind an endpoint, or a role of the recipe itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from llmrl.data.messages import transcript
from llmrl.errors import unknown_name
from llmrl.marks import asks_service, settings_checked_by
from llmrl.recipe_rows import Strict
from llmrl.rewards.opinions import Opinion, Pair
from llmrl.rewards.respondents import Endpoint, Question, Respondent
from llmrl.rewards.rubric import AnswerRubric, NoteRubric, PairRubric, rubric_of
from llmrl.rewards.services import KeyVariable, ReplyError, Service, ServiceError, Url
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import Reply, UnreadableError, labelled, preference, score
from llmrl.rollout.sampler import derive_seed
from llmrl.types import Failure, Group, Prompt, Score, Trajectory

REPEATED_TEMPERATURE = 0.7
"""The least temperature of a repeated question: at 0 a judge would repeat its unreadable reply."""


class Note(Strict):
    """A text that is written before a verdict, and that later rubrics may show by its name, such as a critique.

    of: of a pair, the answer that the rubric calls {completion}; it calls the one beside it {other}. role, or url and
    model: who writes; default: the judge. temperature, max_tokens: default: the judge's.
    """

    rubric: NoteRubric
    of: Literal["a", "b"] | None = None
    role: str | None = None
    url: Url | None = None
    model: str | None = None
    temperature: NonNegativeFloat | None = None
    max_tokens: PositiveInt | None = None

    @property
    def has_author(self) -> bool:
        return self.role is not None or self.url is not None


def check_judge(
    *,
    role: str | None,
    url: str | None,
    model: str | None,
    notes: Mapping[str, Note] | None,
    samples: int,
    temperature: float,
    low: float = 0.0,
    high: float = 1.0,
    logprobs: bool = False,
    labels: Mapping[str, float] | None = None,
    **others: Any,
) -> None:
    """Raises ValueError for settings of a judge that do not fit each other."""
    _check_author(role, url, model)
    for name, note in (notes or {}).items():
        if note.has_author or note.model is not None:
            try:
                _check_author(note.role, note.url, note.model)
            except ValueError as error:
                raise ValueError(f"notes.{name}: {error}") from None
    written = [one for one in (notes or {}).values() if one.temperature != 0 and (one.temperature or temperature)]
    if samples > 1 and not (temperature or written):
        raise ValueError(f"samples: {samples} verdicts at temperature 0 are all the same; set temperature above 0")
    if labels is not None and not labels:
        raise ValueError("labels: none given, expected at least one, such as {Yes: 1, No: 0}")
    if labels is None and (not low < high or (logprobs and not 0 <= low < high < 10)):
        needed = "low < high" + (", both from 0 to 9 where logprobs is true" if logprobs else "")
        raise ValueError(f"low {low:g}, high {high:g}: expected {needed}")


def _check_author(role: str | None, url: str | None, model: str | None) -> None:
    if (role is None) == (url is None):
        raise ValueError("give a role of the recipe as `role`, or a server's `url` with the `model`; not both")
    if (url is None) != (model is None):
        raise ValueError("url and model need each other: the model is the name that the server knows it by")


class Verdict(NamedTuple):
    """The content of a judge's reply, mostly a number, and how many replies before that could not be read."""

    value: Any
    unreadable: int


@dataclass(frozen=True)
class Judge:
    """A respondent that is asked for verdicts.

    writers: who writes each of the notes. chat: whether what it reads is a user's message. asks: how often it is asked
    for a reply that can be read. samples: the verdicts whose mean counts, each after notes of its own.
    """

    respondent: Respondent
    notes: Mapping[str, Note] = field(default_factory=dict)
    writers: Mapping[str, Respondent] = field(default_factory=dict)
    chat: bool = True
    logprobs: bool = False
    temperature: float = 0.0
    max_tokens: int = 1024
    asks: int = 3
    samples: int = 1

    async def verdict(self, rubric: str, row: Mapping[str, Any], read: Callable[[Reply], float]) -> Verdict:
        """The mean of what `read` gives for replies to the rubric, filled in from the row and from the notes.

        Raises ReplyError when the last reply cannot be read either, and what Respondent.reply raises.
        """
        found = await all_of(*(self.ask(rubric, row, read, number) for number in range(self.samples)))
        return Verdict(sum(one.value for one in found) / len(found), sum(one.unreadable for one in found))

    async def ask(self, rubric: str, row: Mapping[str, Any], read: Callable[[Reply], Any], number: int = 0) -> Verdict:
        """The first result of `read` that raises no UnreadableError; number: of the sample. Raises as `verdict`."""
        text, last = rubric_of(rubric).fill(await self._noted(row, number)), ""
        for ask in range(self.asks):
            temperature = self.temperature if ask == 0 else max(self.temperature, REPEATED_TEMPERATURE)
            seed = derive_seed(text, number, ask)
            reply = await self.respondent.reply(
                Question(text, self.chat, temperature, self.max_tokens, self.logprobs, seed)
            )
            try:
                return Verdict(read(reply), ask)
            except UnreadableError as error:
                last = str(error)
        raise ReplyError(f"{self.respondent.name}: no verdict in {self.asks} replies, the last: {last}")

    async def _noted(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The row with every note, each of which may show the earlier ones."""
        found = dict(row)
        for name, note in self.notes.items():
            shown = found
            if note.of:
                shown = found | {"completion": found[note.of], "other": found["b" if note.of == "a" else "a"]}
            text = rubric_of(note.rubric).fill(shown)
            temperature = self.temperature if note.temperature is None else note.temperature
            question = Question(
                text,
                self.chat,
                temperature,
                note.max_tokens or self.max_tokens,
                seed=derive_seed(text, number, name),
            )
            reply = await self.writers[name].reply(question)
            found[name] = (after_thoughts(reply.text) or "").strip()
        return found


@settings_checked_by(check_judge)
@asks_service("/models", seconds=600.0)
async def judge_pairwise(
    group: Group,
    pairs: Sequence[Pair],
    authors: Mapping[str, Respondent],
    *,
    rubric: PairRubric,
    role: str | None = None,
    url: Url | None = None,
    model: str | None = None,
    notes: dict[str, Note] | None = None,
    logprobs: bool = False,
    thoughts_end: str | None = None,
    temperature: NonNegativeFloat = 0.0,
    max_tokens: PositiveInt = 1024,
    asks: PositiveInt = 3,
    samples: PositiveInt = 1,
    request: dict[str, Any] | None = None,
    request_seconds: PositiveFloat = 120.0,
    attempts: PositiveInt = 4,
    concurrency: PositiveInt = 32,
    key_variable: KeyVariable | None = None,
) -> list[Opinion | Failure]:
    """The opinion of a judge that compares two answers, asked in both orders.

        P(a better) = (P(A | a shown first) + P(B | b shown first)) / 2

    so a verdict that flips with the order is a tie of 0.5. rubric: a file with {prompt}, {a} and {b} that asks for
    [[A]], [[B]] or [[C]] (a tie). role: the role of the recipe that judges, with the weights that it samples with; else
    url (up to and with /v1) and model name one behind an endpoint. notes: texts that are written before the verdict.
    logprobs: take the labels' probabilities in place of the one that was written. samples: verdicts in each order, of
    which the mean counts. asks: how often an unreadable reply is asked for, the first time included. request: further
    fields of the request's body. Others: see llmrl.rewards.services.Service and `after_thoughts`.
    """
    service = Service(url or "", request_seconds, attempts, concurrency, key_variable)
    asking = {"logprobs": logprobs, "temperature": temperature, "max_tokens": max_tokens, "asks": asks}
    judge = judge_of(group, authors, role, service, model, request, notes, samples=samples, **asking)
    shown = [answer_of(one, thoughts_end) for one in group.trajectories]

    async def ask(first: int, second: int) -> Verdict:
        return await judge.verdict(rubric, row_of(group.prompt) | {"a": shown[first], "b": shown[second]}, preference)

    async def both(pair: Pair) -> Opinion:
        one, other = await all_of(ask(pair.a, pair.b), ask(pair.b, pair.a))
        sides = [(value > 0.5) - (value < 0.5) for value in (one.value, 1 - other.value)]
        metrics = {
            "order_consistency": float(sides[0] == sides[1]),
            "parse_failures": float(one.unreadable + other.unreadable),
        }
        return Opinion((one.value + 1 - other.value) / 2, metrics)

    return await asyncio.gather(*(or_failure(both(pair)) for pair in pairs))


@settings_checked_by(check_judge)
@asks_service("/models", seconds=600.0)
async def judge_pointwise(
    group: Group,
    authors: Mapping[str, Respondent],
    *,
    rubric: AnswerRubric,
    role: str | None = None,
    url: Url | None = None,
    model: str | None = None,
    notes: dict[str, Note] | None = None,
    low: float = 1.0,
    high: float = 10.0,
    labels: dict[str, float] | None = None,
    logprobs: bool = False,
    thoughts_end: str | None = None,
    temperature: NonNegativeFloat = 0.0,
    max_tokens: PositiveInt = 1024,
    asks: PositiveInt = 3,
    samples: PositiveInt = 1,
    request: dict[str, Any] | None = None,
    request_seconds: PositiveFloat = 120.0,
    attempts: PositiveInt = 4,
    concurrency: PositiveInt = 32,
    key_variable: KeyVariable | None = None,
) -> list[Score | Failure]:
    """The score that a judge gives an answer: a number from `low` to `high`, or the value of a label.

    rubric: a file with {prompt} and {completion} that asks for a score as [[7]], or for one of the labels as [[Yes]].
    labels: label -> score. logprobs: take the expectation over the scores, or labels, that the judge's token might have
    been, which ties less often: with {Yes: 1, No: 0} it is P(Yes) / (P(Yes) + P(No)), the score of a generative reward
    model (arXiv 2408.15240); of numbers for scores of one digit alone. Others: see judge_pairwise.
    """
    service = Service(url or "", request_seconds, attempts, concurrency, key_variable)
    asking = {"logprobs": logprobs, "temperature": temperature, "max_tokens": max_tokens, "asks": asks}
    judge = judge_of(group, authors, role, service, model, request, notes, samples=samples, **asking)

    def read(reply: Reply) -> float:
        return score(reply, low, high) if labels is None else labelled(reply, labels)

    async def ask(trajectory: Trajectory) -> Score:
        row = row_of(group.prompt) | {"completion": answer_of(trajectory, thoughts_end)}
        found = await judge.verdict(rubric, row, read)
        return Score(found.value, metrics={"parse_failures": float(found.unreadable)})

    return await asyncio.gather(*(or_failure(ask(one)) for one in group.trajectories))


def judge_of(
    group: Group,
    authors: Mapping[str, Respondent],
    role: str | None,
    service: Service,
    model: str | None,
    request: Mapping[str, Any] | None,
    notes: Mapping[str, Note] | None,
    **asking: Any,
) -> Judge:
    """The judge that a reward's settings name: a role of the recipe, or a model behind an endpoint."""

    def endpoint(one: Service, name: str | None) -> Respondent:
        return Endpoint(one, cast(str, name), request or {})

    def writer(note: Note) -> Respondent:
        if note.role is not None:
            return respondent_of(authors, note.role)
        return endpoint(replace(service, url=note.url), note.model) if note.url else judging

    judging = endpoint(service, model) if role is None else respondent_of(authors, role)
    writers = {name: writer(note) for name, note in (notes or {}).items()}
    return Judge(judging, notes or {}, writers, chat=group.prompt.messages is not None, **asking)


def respondent_of(authors: Mapping[str, Respondent], role: str) -> Respondent:
    """The role that replies; raises ValueError with the nearest name if the recipe has none of this name."""
    if role not in authors:
        raise ValueError(unknown_name("role", role, authors, "role"))
    return authors[role]


async def all_of(*work: Any) -> list[Any]:
    """The results of all of them; raises the first exception after every one has ended."""
    found = await asyncio.gather(*work, return_exceptions=True)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found


async def or_failure(work: Any) -> Any:
    """The result, or the failure of a service that was asked."""
    try:
        return await work
    except TimeoutError as error:
        return Failure("", "timeout", str(error))
    except ReplyError as error:
        return Failure("", "invalid", str(error))
    except ServiceError as error:
        return Failure("", "crash", str(error))


def row_of(prompt: Prompt) -> dict[str, Any]:
    """The columns of the row, and the question as a judge reads it."""
    messages = prompt.messages
    return {**prompt.row, "prompt": prompt.text if messages is None else transcript([dict(one) for one in messages])}


def answer_of(trajectory: Trajectory, thoughts_end: str | None) -> str:
    """The answer without its thoughts; empty where the thoughts never ended."""
    return (after_thoughts(trajectory.text, trajectory.prompt.text, thoughts_end=thoughts_end) or "").strip()
