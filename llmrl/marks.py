"""Marks: properties that a piece declares beyond its signature. A user's piece may carry the same ones.

A recipe that violates a mark is refused before anything loads, with the reason.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def _marked(function: Function, name: str, value: Any) -> Function:
    setattr(function, name, value)
    return function


def exact_on_policy(reason: str) -> Callable[[Function], Function]:
    """Marks a loss or an advantage that is exact only for the policy that sampled: one update per batch."""
    return lambda function: _marked(function, "exact_on_policy", reason)


def made_for_stale_samples(function: Function) -> Function:
    """Marks an advantage that is valid for samples of an older policy, also under a loss without a ratio."""
    return _marked(function, "made_for_stale_samples", True)


def rejects_only(function: Function) -> Function:
    """Marks a token weight that reads the sampler's probabilities and is 0 or 1: it is no importance weight."""
    return _marked(function, "rejects_only", True)


def reward_only(reason: str) -> Callable[[Function], Function]:
    """Marks a token penalty for the rewards alone; reason: why it has no use as a loss."""
    return lambda function: _marked(function, "reward_only", reason)


def reads_logits(function: Function) -> Function:
    """Marks a reading or a loss that takes a critic's outputs as the logits of a distribution over values."""
    return _marked(function, "reads_logits", True)


def reads_chance(function: Function) -> Function:
    """Marks a reading or a loss of a critic's output that takes it for the logit of a chance."""
    return _marked(function, "reads_logits", "chance")


def reads_places(function: Function) -> Function:
    """Marks a reading or a loss that takes a critic's outputs as the logits of a value's place in a range."""
    return _marked(function, "reads_logits", "place")


def reads_heads(function: Function) -> Function:
    """Marks a reading that takes every output of a critic as a value of its own."""
    return _marked(function, "reads_heads", True)


def replays(function: Function) -> Function:
    """Marks a source that gives trajectories of older policies as scored samples."""
    return _marked(function, "replays", True)


def takes_all_writers(function: Function) -> Function:
    """Marks a keep function that leaves completions of which another than the policy is the writer."""
    return _marked(function, "takes_all_writers", True)


def drops_other_writers(function: Function) -> Function:
    """Marks a token weight that is 0 on completions of which another than the policy is the writer."""
    return _marked(function, "drops_other_writers", True)


def compares_all(function: Function) -> Function:
    """Marks a preference loss that compares the completions of different groups, so that it needs a whole update."""
    return _marked(function, "compares_all", True)


def compares_prompts(function: Function) -> Function:
    """Marks a loss that compares completions with those of other prompts, so that a step needs two prompts."""
    return _marked(function, "compares_prompts", True)


def provides(*fields: str) -> Callable[[Function], Function]:
    """Marks a provider of these data fields; without the mark, a provider's own name is its field's."""
    return lambda function: _marked(function, "provides", fields)


def brings(*fields: str) -> Callable[[Function], Function]:
    """Marks a source that brings these fields of scored completions, though it samples nothing."""
    return lambda function: _marked(function, "brings", fields)


def grouped_by(groups: Callable[..., Any], *, joins_answers: bool = False) -> Callable[[Function], Function]:
    """Marks a source of written completions by how it makes groups of a row's.

    groups(prompt, written, author) returns a list of Group. joins_answers: its trajectories hold two answers each, so
    that a model which reads them compares answers.
    """
    return lambda function: _marked(_marked(function, "groups", groups), "joins_answers", joins_answers)


def gives_grades(count: int) -> Callable[[Function], Function]:
    """Marks a verifier whose scores carry a `grade`, one of 0 (the worst outcome) to count - 1 (the best).

    A critic with as many outputs may then predict it. Raises ValueError for fewer than 2.
    """
    if count < 2:
        raise ValueError(f"count: {count} is not valid, expected at least 2 grades")
    return lambda function: _marked(function, "grades", count)


def takes_seconds(seconds: float) -> Callable[[Function], Function]:
    """Marks a function with a default deadline of so many seconds. Raises ValueError for <= 0."""
    if not seconds > 0:
        raise ValueError(f"seconds: {seconds} is not valid, expected more than 0")
    return lambda function: _marked(function, "deadline_seconds", seconds)


def reads_rewards(*settings: str) -> Callable[[Function], Function]:
    """Marks a reward of a group that reads the scores of other rewards, which are the keys of these settings."""
    return lambda function: _marked(function, "reads_rewards", settings)


def reads_earlier(setting: str) -> Callable[[Function], Function]:
    """Marks a reward that reads `earlier`: of the texts of its move in earlier steps the last ones, as many as the
    setting says."""
    return lambda function: _marked(function, "reads_earlier", setting)


def remembers(entry: str, setting: str) -> Callable[[Function], Function]:
    """Marks a reward that reads `remembered`: of its own scores in earlier steps the last numbers of that entry of
    `metrics`, as many as the setting says."""
    return lambda function: _marked(function, "remembers", (entry, setting))


def reads_token_texts(function: Function) -> Function:
    """Marks a reward that finds the tokens which end parts of a text; the text of tokens is known in a run alone."""
    return _marked(function, "reads_token_texts", True)


def needs_verdicts(function: Function) -> Function:
    """Marks a reward of a group that is of no use without the verdict of another reward."""
    return _marked(function, "needs_verdicts", True)


def settings_checked_by(check: Callable[..., None]) -> Callable[[Function], Function]:
    """Marks a piece with a check of its settings together: check(**settings), defaults included, raises ValueError."""
    return lambda function: _marked(function, "check_settings", check)


def tried_with(example: Callable[..., str]) -> Callable[[Function], Function]:
    """Marks an environment with an action for the check's trial episode: example(**settings) returns a valid one."""
    return lambda function: _marked(function, "example", example)


def seats(setting: str) -> Callable[[Function], Function]:
    """Marks an environment whose setting of this name lists roles of the recipe, besides `module:function`s."""
    return lambda function: _marked(function, "seats", setting)


@dataclass(frozen=True)
class AsksService:
    """A function's dependence on a server, if its setting `url` names one. health: the path that tells if it is up."""

    health: str


def asks_service(health: str, *, seconds: float) -> Callable[[Function], Function]:
    """Marks an async function that asks a server, and repeats failed requests by itself.

    Its default deadline is so many seconds, and its default number of `retries` is 0. The check asks GET url + health
    once.
    """

    def mark(function: Function) -> Function:
        return takes_seconds(seconds)(_marked(function, "service", AsksService(health)))

    return mark


@dataclass(frozen=True)
class LoadsModels:
    """A function's dependence on models in folders. settings: those with their folders, each one or a list of them.
    load: loads them, given the function's settings, or raises RecipeError. look: raises RecipeError for a folder whose
    config is of another kind of model."""

    settings: tuple[str, ...]
    load: Callable[..., None]
    look: Callable[[str], None]


def loads_models(
    *settings: str, load: Callable[..., None], look: Callable[[str], None]
) -> Callable[[Function], Function]:
    """Marks a reward that needs models of folders; they are loaded when a stage begins, before its sampler.

    The check looks at each folder's config.
    """
    return lambda function: _marked(function, "models", LoadsModels(settings, load, look))


def tried_without(reason: str) -> Callable[[Function], Function]:
    """Marks an environment that the check does not play, with the reason; other pieces are tried on plain answers."""
    return lambda function: _marked(function, "tried_without", reason)


def runs_programs(function: Function) -> Function:
    """Marks a reward or an environment that runs programs; a sandbox for them is tried before anything loads.

    Its setting `allow_weak` says whether a sandbox without namespaces is accepted.
    """
    return _marked(function, "runs_programs", True)


@dataclass(frozen=True)
class Reading:
    """The way in which a verifier reads a completion and a row's `answer`.

    read(completion, prompt, **settings) returns None for a completion without an answer; same(one, other, **settings)
    compares two results of `read`. Both take all settings of the verifier, and `read` may take the data row as `row`.
    golds(answer) returns the gold answers, or raises ValueError for a value that is none (default:
    llmrl.rewards.golds.gold_texts). understands(answer): whether answers that are spelt otherwise can be found equal to
    the gold (default: always).
    """

    read: Callable[..., str | None]
    same: Callable[..., bool] = lambda one, other, **settings: operator.eq(one, other)
    golds: Callable[[Any], Sequence[str]] | None = None
    understands: Callable[[Any], bool] | None = None

    def of(self, completion: str, prompt: str, row: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
        """The result of `read`, which is given `row` if it takes it."""
        more = {"row": row} if "row" in inspect.signature(self.read).parameters else {}
        return self.read(completion, prompt, **more, **settings)


def reads_answers(read: Callable[..., str | None], **others: Callable[..., Any]) -> Callable[[Function], Function]:
    """Marks a verifier by its Reading; others: same, golds, understands.

    The check shows what `read` finds and counts the golds that are not understood, and maj@k groups answers by `same`.
    """
    return lambda function: _marked(function, "reading", Reading(read, **others))


def measured_once_by(measure: Callable[..., Any]) -> Callable[[Function], Function]:
    """Marks a provider that reads `measured_once`, a mapping that `measure` makes before the stage's first step.

    measure(prompts, sample, **settings) returns the mapping and the groups that it sampled; sample(prompts,
    group_size=n) samples and scores with the stage's first policy.
    """
    return lambda function: _marked(function, "measured_once_by", measure)


def brings_tools(schemas: Callable[..., Sequence[Mapping[str, Any]]]) -> Callable[[Function], Function]:
    """Marks an environment whose tools stand in the prompts.

    schemas(row, **settings) returns the tools' schemas for a row, as chat templates read them.
    """
    return lambda function: _marked(function, "tools", schemas)
