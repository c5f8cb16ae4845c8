"""Settings of a recipe that have no effect: a table of what reads them, and the tables of axes, engines and samplers.

A setting is looked at if its value is not the default. One that some stage or role reads is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from llmrl.axes import BY_KEY
from llmrl.check.report import Report
from llmrl.data.forms import DEMONSTRATIONS
from llmrl.engines.catalogue import OWN_KEYS, engine_kind
from llmrl.other_policies import needs_past, needs_reference
from llmrl.pieces import resolve
from llmrl.recipe import Recipe
from llmrl.recipe_rows import Rows
from llmrl.resolve import Pieces, fields_of
from llmrl.rollout.catalogue import CATALOGUE as SAMPLERS


@dataclass(frozen=True)
class Reader:
    """Keys of a recipe; whether anything reads them; the reason why nothing does, which may name recipe's values.

    A key that ends in a dot stands for all keys below it.
    """

    keys: tuple[str, ...]
    reads: Callable[[Recipe, Pieces], bool]
    why: str


def _collects(recipe: Recipe, pieces: Pieces) -> bool:
    return pieces.samples or _asks(recipe, pieces)


def _asks(recipe: Recipe, pieces: Pieces) -> bool:
    return bool(recipe.data.eval and recipe.rewarded)


def _evaluates(recipe: Recipe, pieces: Pieces) -> bool:
    held_out = recipe.data.eval
    if held_out is None:
        return False
    imitated = DEMONSTRATIONS in pieces.source.data and (held_out.completion or not held_out.names_columns)
    return bool(recipe.rewarded or pieces.algorithm.compares or imitated)


def _has_critic(recipe: Recipe, pieces: Pieces) -> bool:
    return pieces.algorithm.has_critic


def _reads_credit(recipe: Recipe, pieces: Pieces) -> bool:
    return pieces.algorithm.reads_credit


def _sampler_has_options(recipe: Recipe, pieces: Pieces) -> bool:
    return "options" in resolve(recipe.rollout.engine, SAMPLERS, key="rollout.engine", what="sampler").data


def _reads_comparisons(recipe: Recipe, pieces: Pieces) -> bool:
    made = recipe.data.train.transform is not None
    return made or "comparisons" in pieces.source.data or "dataset" in recipe.rollout.written_by


def _reads_completion(recipe: Recipe, pieces: Pieces) -> bool:
    rows = recipe.data.train
    used = "demonstrations" in pieces.source.data or rows.few_shot != 0 or bool(rows.label or rows.components)
    return used or rows.transform is not None


READERS = (
    Reader(("critic.",), _has_critic, "no piece reads values, as advantage: gae would"),
    Reader(("critic.weight",), lambda r, p: r.critic.backbone == "shared", "the critic has a backbone of its own"),
    Reader(("critic.learning_rate", "critic.schedule", "critic.updates_per_step", "critic.epochs_per_step",
            "critic.replay."), lambda r, p: r.critic.backbone == "own",
           "the critic shares the policy's backbone"),
    Reader(("critic.target_mix",), lambda r, p: p.algorithm.has_target, "no piece reads target_outputs"),
    Reader(("reference.",), lambda r, p: needs_reference(r, p.algorithm),
           "no piece reads log-probabilities of a reference"),
    Reader(("history.",), lambda r, p: needs_past(r, p.algorithm), "no piece reads earlier policies, and none writes"),
    Reader(("reference.mix",), lambda r, p: r.reference.every is not None, "reference.every is none, so nothing moves"),
    Reader(("value",), lambda r, p: p.algorithm.reads_values, "no piece reads values, as advantage: gae would"),
    Reader(("value_loss",), _has_critic, "no piece reads values, as advantage: gae would"),
    Reader(("advantage", "advantage_shaping.", "reward_shaping.", "token_rewards."), _reads_credit,
           "no piece reads advantages"),
    Reader(("log_ratio",), lambda r, p: "log_ratio" in p.algorithm.needs, "no piece reads the log ratio"),
    Reader(("keep", "rollout.written_by", "rollout.max_refills", "rollout.max_mismatch"), lambda r, p: p.samples,
           "it trains on no samples"),
    Reader(("rollout.first_samples", "rollout.allocation_rounds"), lambda r, p: p.allocate is not None,
           "there is no `allocate`"),
    Reader(("env", "rewards.", "rollout.engine", "rollout.weight_transport", "rollout.top_p", "rollout.top_k",
            "rollout.stop", "rollout.engine_options"), _collects, "nothing is sampled"),
    Reader(("rollout.engine_options",), _sampler_has_options, "rollout.engine {rollout.engine} takes no options"),
    Reader(("evaluation.",), _evaluates, "nothing is evaluated, for want of data.eval or rewards"),
    Reader(tuple(f"data.eval.{name}" for name in ("path", "task", "dataset")), _evaluates,
           "nothing is measured on held-out rows, without rewards, a preference_loss or completions to imitate"),
    Reader(("evaluation.temperature", "evaluation.answer_pattern"), lambda r, p: r.evaluation.samples > 0,
           "evaluation.samples is 0"),
    Reader(("evaluation.samples", "evaluation.temperature", "evaluation.answer_pattern"), _asks,
           "no held-out prompt is answered, for want of rewards"),
    Reader(("evaluation.length_exponent",), lambda r, p: r.evaluation.beams > 1, "evaluation.beams is 1"),
    Reader(("checkpoint.metric",), lambda r, p: r.checkpoint.keep_best and _evaluates(r, p),
           "no best checkpoint is kept"),
    Reader(("data.train.completion",), _reads_completion, "nothing imitates it"),
    Reader(tuple(f"data.train.{n}" for n in ("chosen", "rejected", "label", "completions", "scores", "components")),
           _reads_comparisons, "nothing compares them"),
    Reader(tuple(f"data.eval.{name}" for name in ("chosen", "rejected", "label", "completions", "scores")),
           lambda r, p: p.algorithm.compares or (r.data.eval is not None and r.data.eval.transform is not None),
           "there is no preference_loss to compare them by"),
    Reader(("data.train.category",), lambda r, p: False, "metrics of held-out rows alone are told by category"),
    Reader(tuple(f"data.train.{name}" for name in ("steps", "step_labels", "separator", "neutral", "last_step_only")),
           lambda r, p: "solutions" in p.source.data, "nothing learns from steps"),
    Reader(("data.eval.closest.",), lambda r, p: False, "only training rows are chosen by a policy"),
    Reader(("data.eval.balanced_by",), lambda r, p: False, "only training rows are balanced"),
    Reader(("data.eval.shuffle",), lambda r, p: False, "held-out rows keep their order"),
)  # fmt: skip
ROWS_OF = {"task": ("settings", "size", "seed"), "dataset": ("subset", "split")}
"""The origins of rows, with the keys of `data.train` and `data.eval` that they alone read."""


@dataclass
class Unused:
    """Sees the stages and roles of a plan, and tells of each setting that none of them reads.

    found: by key, the reason of every stage and role that sets it; None from one that reads it.
    """

    found: dict[str, list[str | None]] = field(default_factory=dict)

    def see(self, recipe: Recipe, pieces: Pieces) -> None:
        """Look at one role of one stage."""
        reasons = dict(_unread(recipe, pieces))
        for key in _changed(recipe):
            self.found.setdefault(key, []).append(reasons.get(key))

    def warn(self, report: Report) -> None:
        """Warn of the settings that have no effect."""
        for key, reasons in self.found.items():
            told = dict.fromkeys(reason for reason in reasons if reason)
            if None not in reasons:
                report.warn(f"{key} has no effect: {'; '.join(told)}")


def _unread(recipe: Recipe, pieces: Pieces) -> Iterator[tuple[str, str]]:
    """The keys that nothing reads, changed or not, each with its last reason."""
    keys = list(_changed(recipe))
    for reader in reversed(READERS):
        if not reader.reads(recipe, pieces):
            why = reader.why.replace("{rollout.engine}", recipe.rollout.engine)
            yield from ((key, why) for key in keys if _is_named(key, reader.keys))
    engine = engine_kind(recipe.training.strategy)
    for key in OWN_KEYS - engine.own_keys:
        yield f"training.{key}", f"training.strategy {recipe.training.strategy} does not read it"
    for part, rows in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        yield from ((f"data.{part}.{key}", why) for key, why in _unread_of_rows(rows))
    algorithm = pieces.algorithm
    for name, piece in algorithm.controllers.items():
        if name not in algorithm.running_controllers:
            yield f"controllers.{piece.name}", f"no piece reads {name}"
    read = algorithm.measured(updates=2, sampled=True) | pieces.gathering
    for piece in pieces.providers.values():
        if not read & set(fields_of(piece)):
            yield f"providers.{piece.name}", f"no piece reads {', '.join(fields_of(piece))}"


def _unread_of_rows(rows: Rows | None) -> Iterator[tuple[str, str]]:
    if rows is None:
        return
    for origin, keys in ROWS_OF.items():
        if getattr(rows, origin) is None:
            yield from ((key, f"the rows come from no {origin}") for key in keys)


def _is_named(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)


def _changed(part: BaseModel, place: str = "") -> Iterator[str]:
    """The keys whose values differ from their defaults; a mapping of pieces has a key for each."""
    for name, info in type(part).model_fields.items():
        value: Any = getattr(part, name)
        key = f"{place}{name}"
        if name == "roles" or value == info.get_default(call_default_factory=True):
            continue
        if isinstance(value, BaseModel):
            yield from _changed(value, f"{key}.")
        elif isinstance(value, Mapping) and (key == "rewards" or (key in BY_KEY and BY_KEY[key].kind != "one")):
            yield from (f"{key}.{piece}" for piece in value)
        else:
            yield key
