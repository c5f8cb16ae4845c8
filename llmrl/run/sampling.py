"""The parts of a stage that give it trajectories: samplers kept from stage to stage, collector, source, held-out
rows."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from llmrl.data.chat import Conversation
from llmrl.data.forms import DEMONSTRATIONS
from llmrl.data.messages import messages_of
from llmrl.data.prompts import LoadedPrompts, load_prompts
from llmrl.data.stream import PromptStream
from llmrl.data.tool_calls import CallReader
from llmrl.data.written import Written
from llmrl.engines.ranks import Ranks
from llmrl.envs.base import AuthorText, Encode
from llmrl.errors import RecipeError
from llmrl.models.text import REMEMBERED, SHORT, as_written, decoder, prompt_tokens, remembered
from llmrl.other_policies import NO_MIXTURE
from llmrl.pieces import Piece, resolve
from llmrl.recipe import Lora, Recipe
from llmrl.resolve import Pieces, brought_tools, read_for, resolve_moves
from llmrl.reward_model_combinations import labels_steps
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.rollout.catalogue import CATALOGUE as SAMPLERS
from llmrl.rollout.collect import Collector, SampleGroups
from llmrl.rollout.group_sampling import Allocated, Evenly, Provided
from llmrl.rollout.play import Author
from llmrl.rollout.role_respondent import RoleRespondent
from llmrl.rollout.sampler import Adapting, Mixing, Sampler, SamplingParams, sampling_params
from llmrl.run.guided_sampling import guided
from llmrl.run.models import Origin, reference_folder
from llmrl.run_folder import layout
from llmrl.train.held_out import HeldOut
from llmrl.train.provide import for_allocation, while_gathering
from llmrl.train.roles import Role
from llmrl.train.sources import Source, compared_groups
from llmrl.types import ACTOR, DATASET, REFERENCE


class Samplers:
    """The samplers of a process, one for each model, kept from stage to stage if shape and settings stay the same.

    max_concurrent: the most completions that any stage asks for at once.
    """

    def __init__(self, *, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._open: dict[str, tuple[str, Sampler]] = {}

    def get(
        self,
        recipe: Recipe,
        origin: Origin,
        device: torch.device,
        model: str = ACTOR,
        *,
        adapters: Mapping[str, Lora] | None = None,
        length: int | None = None,
    ) -> Sampler:
        """The sampler of the model that `model` names.

        adapters: those that it takes, by name; default: the recipe's. length: of prompt and completion; default: the
        recipe's.
        """
        rollout, lora = recipe.rollout, recipe.model.lora
        adapters = ({model: lora} if lora else {}) if adapters is None else adapters
        length = length or rollout.max_prompt_tokens + rollout.max_completion_tokens
        shape = AutoConfig.from_pretrained(str(origin.folder)).to_diff_dict()
        shape.pop("_name_or_path", None)
        loras = {name: one.model_dump() for name, one in adapters.items()}
        settings = [rollout.engine, recipe.training.dtype, length, rollout.engine_options, loras, shape]
        key = json.dumps(settings, default=str)
        if self._open.get(model, ("",))[0] != key:
            self._close(model)
            self._open[model] = key, self._make(recipe, origin, device, length, adapters)
        return self._open[model][1]

    def close(self, *, but: Sequence[str] = ()) -> None:
        """Close all samplers but those of the models named."""
        for model in [model for model in self._open if model not in but]:
            self._close(model)

    def _make(
        self, recipe: Recipe, origin: Origin, device: torch.device, length: int, adapters: Mapping[str, Lora]
    ) -> Sampler:
        make = resolve(recipe.rollout.engine, SAMPLERS, key="rollout.engine", what="sampler")
        return make(
            {
                "folder": origin.folder,
                "tokenizer": origin.tokenizer,
                "dtype": recipe.training.dtype,
                "device": device,
                "max_model_len": length,
                "max_concurrent": self._max_concurrent,
                "options": recipe.rollout.engine_options,
                "adapters": adapters,
            }
        )

    def _close(self, model: str) -> None:
        if model in self._open:
            self._open.pop(model)[1].close()


def make_collector(
    recipe: Recipe,
    env: Piece,
    origins: Mapping[str, Origin],
    samplers: Samplers,
    workers: Workers,
    ranks: Ranks,
    device: torch.device,
    *,
    written: Mapping[str, Sequence[Written]],
) -> Collector:
    """The collector, which samples and scores this stage's prompts; samplers that it does not need are closed.

    There is one sampler for each model, whose adapters it serves together, and one for each other policy that writes.
    written: the rows' completions by
    prompt id. Raises RecipeError if a writer has a share, and the policy's sampler cannot mix.
    """
    views = recipe.by_role
    first = next(iter(views))
    served = {role: _served(role, views) for role in views}
    bases = dict.fromkeys(base for base, _ in served.values())
    samplers.close(but=[*bases, *(f"{served[first][0]}/{name}" for name in recipe.rollout.written_by)])
    found: dict[str, Sampler] = {}
    for base in bases:
        on_it = {role: adapter for role, (held, adapter) in served.items() if held == base}
        found |= _on_one_base(on_it, base, views, origins[base], samplers, device)
    found = {name: guided(sampler, views[name], origins[name].tokenizer, device) for name, sampler in found.items()}
    lead = found[first], views[first], origins[first], device, served[first][0]
    asked = {
        name: respondent(name, views[view.shares_with or name], origins[name], found[name])
        for name, view in views.items()
    }
    authors = {
        name: Author(
            found[name],
            Rewards.from_specs(view.rewards, workers=workers, authors=asked) if view.rewards else None,
            author_text(origins[name]),
            _writing_samplers(samplers, *lead) if name == first else {},
        )
        for name, view in views.items()
    }
    return Collector(
        authors,
        make_env=env,
        deadline_seconds=recipe.rollout.deadline_seconds,
        max_prompt_tokens=recipe.rollout.max_prompt_tokens,
        micro_group=recipe.rollout.micro_group,
        turns=recipe.turns,
        moves=resolve_moves(recipe),
        written=written,
        rank=ranks.rank,
        ranks=ranks.size,
        gather=ranks.gather,
    )


def _served(role: str, views: Mapping[str, Recipe]) -> tuple[str, str | None]:
    """The role whose model a role samples with, and the adapter on it; None for the model as it is."""
    holder = views[role].shares_with or role
    adapts = views[holder].trained and views[holder].model.lora is not None
    return views[holder].model.role or holder, holder if adapts else None


def _on_one_base(
    on_it: Mapping[str, str | None],
    base: str,
    views: Mapping[str, Recipe],
    origin: Origin,
    samplers: Samplers,
    device: torch.device,
) -> dict[str, Sampler]:
    """The samplers of the roles on one base, from their adapters: one that holds the base for all, if it can."""
    adapters = {name: lora for name in on_it.values() if name and (lora := views[name].model.lora)}
    rollouts = [views[role].rollout for role in on_it]
    length = max(one.max_prompt_tokens + one.max_completion_tokens for one in rollouts)
    sampler = samplers.get(views[base], origin, device, base, adapters=adapters, length=length)
    wanted = list(dict.fromkeys(on_it.values()))
    if len(wanted) == 1:
        made = {wanted[0]: sampler}
    elif isinstance(sampler, Adapting) and getattr(sampler, "takes_adapter", False):
        made = {name: sampler.with_adapter(name) for name in wanted}
    else:  # adapters reach it merged, so each needs weights of its own
        own = {name: {name: adapters[name]} if name else {} for name in wanted[1:]}
        made = {
            name: samplers.get(views[base], origin, device, f"{base}+{name}", adapters=own[name], length=length)
            for name in wanted[1:]
        } | {wanted[0]: sampler}
    return {role: made[name] for role, name in on_it.items()}


def respondent(role: str, recipe: Recipe, origin: Origin, sampler: Sampler) -> RoleRespondent:
    """A role as judges ask it."""
    tokenizer: Any = origin.tokenizer

    def prompt(text: str, chat: bool) -> list[int]:
        if chat:
            text = Conversation(tokenizer, [{"role": "user", "content": text}]).prompt
        return prompt_tokens(tokenizer, text, chat=chat)

    decode = decoder(tokenizer, origin.stop_token_ids)
    room = recipe.rollout.max_prompt_tokens + recipe.rollout.max_completion_tokens
    return RoleRespondent(role, sampler, prompt, decode, origin.stop_token_ids, room)


def _writing_samplers(
    samplers: Samplers, own: Sampler, recipe: Recipe, origin: Origin, device: torch.device, model: str
) -> dict[str, Sampler]:
    """The samplers of the models that write completions in the policy's place, by writer; own: the policy's."""
    found: dict[str, Sampler] = {}
    whole = recipe.model_copy(update={"model": recipe.model.model_copy(update={"lora": None})})
    for name, writer in recipe.rollout.written_by.items():
        if name == DATASET:
            continue
        folder = reference_folder(recipe, origin) if name == REFERENCE else origin.folder
        sampler = samplers.get(whole, replace(origin, folder=Path(folder)), device, f"{model}/{name}")
        if writer.share < 1:
            if not isinstance(own, Mixing):
                why = NO_MIXTURE.format(engine=recipe.rollout.engine)
                raise RecipeError(f"rollout.written_by.{name}.share: {writer.share}, but {why}")
            sampler = own.mixed_with(sampler, writer.share)
        found[name] = sampler
    return found


def rewards_of(collector: Collector | None) -> dict[str, Rewards]:
    """The rewards of each role that has some."""
    authors = collector.authors if collector else {}
    return {name: author.scorer for name, author in authors.items() if isinstance(author.scorer, Rewards)}


def make_source(
    recipe: Recipe,
    pieces: Mapping[str, Pieces],
    prompts: LoadedPrompts,
    origins: Mapping[str, Origin],
    collector: Collector | None,
    roles: Mapping[str, Role],
    measured_once: Mapping[str, Mapping[str, float]],
    ranks: Ranks,
) -> tuple[Source, PromptStream]:
    """The source that the recipe's `learn_from` names, and the stream of training prompts."""
    first = next(iter(recipe.by_role))
    source = pieces[first].source
    whole = recipe.training.epochs is not None
    order = recipe.data.train.shuffle, prompts.labels
    stream = PromptStream(prompts.train, recipe.seed, *order, balanced=prompts.balanced, whole_epochs=whole)
    available = {
        "stream": stream,
        "collector": collector,
        "sample_groups": collector and sample_groups(recipe, pieces, collector, roles, measured_once),
        "keep": {name: pieces[name].keep for name in roles or pieces},
        "rollout": recipe.rollout,
        "params": params_of(recipe, origins),
        "demonstrations": prompts.demonstrations,
        "comparisons": prompts.comparisons,
        "solutions": prompts.solutions,
        "asker": prompts.asker,
        "author": first,
        "ranks": ranks,
        "replay_folder": Path(recipe.run_dir) / layout.REPLAY / "groups",
    }
    return source(available), stream


def _held_out_written(prompts: LoadedPrompts, role: Role) -> Mapping[str, list[Written]]:
    """The completions of rows, by prompt id, that a role's evaluation reads."""
    if role.algorithm.compares:
        return prompts.solutions if labels_steps(role.algorithm) else prompts.comparisons
    imitates = DEMONSTRATIONS in role.pieces.source.data
    return {name: [one] for name, one in prompts.demonstrations.items()} if imitates else {}


def make_held_out(recipe: Recipe, prompts: LoadedPrompts, roles: Mapping[str, Role]) -> HeldOut:
    """The held-out completions that the first role judges, if it is trained to prefer some or to tell steps apart, or
    whose likelihood is measured, if it imitates."""
    first = next(iter(recipe.by_role))
    if first not in roles:
        return HeldOut(categories=prompts.categories)
    written = _held_out_written(prompts, roles[first])
    held = [one for one in prompts.eval if one.id in written][: recipe.evaluation.limit]
    grouped = roles[first].pieces.source.mark("groups") or compared_groups
    groups = [group for prompt in held for group in grouped(prompt, written[prompt.id], first)]
    return HeldOut(groups, prompts.categories, recipe.rollout.prompts_per_step)


def sample_groups(
    recipe: Recipe,
    pieces: Mapping[str, Pieces],
    collector: Collector,
    roles: Mapping[str, Role],
    measured_once: Mapping[str, Mapping[str, float]],
) -> SampleGroups:
    """The function that samples a round's prompts: evenly or by an allocation, with the providers' fields."""
    rollout, first = recipe.rollout, next(iter(pieces))
    found: SampleGroups = Evenly(collector, rollout.own_completions, rollout.writers)
    if allocate := pieces[first].allocate:
        given = rollout.first_samples or max(1, rollout.group_size // 2)
        providers = for_allocation(pieces[first], roles[first].models if first in roles else {})
        if providers and first not in roles:
            reads = ", ".join(providers)
            raise RecipeError(f"allocate.{allocate.name}: reads {reads}, which needs a trained model; {first} is none")
        found = Allocated(collector, allocate, rollout.group_size, given, rollout.allocation_rounds, providers)
    gathering = {piece.name: piece for name in roles for piece in while_gathering(pieces[name])}
    return Provided(found, collector, list(gathering.values()), measured_once) if gathering else found


def params_of(recipe: Recipe, origins: Mapping[str, Origin]) -> Callable[[int], SamplingParams]:
    """A function from a seed to the sampling parameters of every role."""
    first, *rest = recipe.by_role
    views = recipe.by_role

    def params(seed: int) -> SamplingParams:
        others = {name: sampling_params(views[name].rollout, origins[name].stop_token_ids, seed) for name in rest}
        return sampling_params(views[first].rollout, origins[first].stop_token_ids, seed, others)

    return params


def load_stage_prompts(recipe: Recipe, origin: Origin) -> LoadedPrompts:
    """Training and held-out prompts, rendered with the first role's tokenizer."""
    return load_prompts(
        origin.tokenizer,
        recipe.data,
        recipe.rollout.max_prompt_tokens,
        max_completion_tokens=recipe.rollout.max_completion_tokens,
        stop_token_ids=origin.stop_token_ids,
        gives=read_for(recipe),
        tools=brought_tools(recipe),
    )


def author_text(origin: Origin) -> AuthorText:
    """The conversions between tokens and text of an author whose model starts from `origin`."""
    tokenizer: Any = origin.tokenizer

    def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        return Conversation(tokenizer, messages_of(messages), tools or None).prompt

    def chat(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        return list(tokenizer.encode(render(messages, tools), add_special_tokens=False))

    def plain(text: str) -> list[int]:
        return prompt_tokens(tokenizer, text, chat=False)

    decode, end = remembered(decoder(tokenizer, origin.stop_token_ids)), (tokenizer.eos_token_id,)
    written = partial(as_written, tokenizer)
    calls = CallReader.of(tokenizer)
    return AuthorText(encoder(tokenizer), decode, chat, len(tokenizer), plain, end, render, written, calls)


def encoder(tokenizer: Any) -> Encode:
    """The function with which environments encode text."""
    own = copy.deepcopy(tokenizer)  # split_special_tokens becomes its state, and samplers use theirs in other threads

    def encoded(text: str, special: bool) -> list[int]:
        return own.encode(text, add_special_tokens=False, split_special_tokens=not special)

    known = lru_cache(REMEMBERED)(encoded)  # environments often say the same, and tokenizers take long for short texts

    def encode(text: str, *, special: bool = False) -> list[int]:
        return encoded(text, special) if len(text) > SHORT else [*known(text, special)]

    return encode


def reward_workers(ranks: int) -> Workers:
    """One rank's share of min(cores, 8) processes: grading is short, and sampling needs the other cores."""
    return Workers(max(1, min(os.cpu_count() or 1, 8) // ranks))
