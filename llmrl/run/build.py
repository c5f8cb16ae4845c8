"""From a resolved recipe to the parts of a stage: model, engine, sampler, prompts, rewards."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from llmrl.algorithm import Algorithm
from llmrl.data.prompts import LoadedPrompts, load_prompts
from llmrl.data.stream import PromptStream
from llmrl.engines.engine import Engine, TorchEngine
from llmrl.engines.ranks import Ranks
from llmrl.envs.base import ENV_DATA, Encode
from llmrl.envs.catalogue import ENVS
from llmrl.errors import RecipeError, gathered, unknown_name
from llmrl.models.critic import Critic, ValueHead
from llmrl.models.loading import load_language_model, load_tokenizer, materialize, stop_token_ids
from llmrl.models.policy import Policy
from llmrl.ops import allocation
from llmrl.pieces import Piece, catalogue, resolve
from llmrl.probe import probe_allocation
from llmrl.recipe import Recipe, Training
from llmrl.rewards.base import Reward, Rewards
from llmrl.rewards.catalogue import REWARDS
from llmrl.rewards.workers import Workers
from llmrl.rollout import selection
from llmrl.rollout.collect import Collector, Draw
from llmrl.rollout.group_sampling import Allocated, Evenly, WithGreedy
from llmrl.rollout.sampler import Sampler
from llmrl.train.annotate import BEHIND
from llmrl.train.gradients import success_gradient_norms
from llmrl.train.roles import Role, ValueFunction
from llmrl.train.sources import Demonstrations, Rollouts, Source


@dataclass(frozen=True)
class Origin:
    """A stage's starting point on disk: the model folder, its tokenizer, the tokens that end a completion."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Pieces:
    """The recipe's pieces outside the algorithm, resolved."""

    env: Piece
    keep: Piece
    allocate: Piece | None = None


def resolve_pieces(recipe: Recipe) -> Pieces:
    """Raises RecipeError for an unknown environment, keep function or allocation, or a wrong setting of one."""
    faults: list[str] = []
    env = keep = allocate = None
    with gathered(faults):
        env = resolve(recipe.env, ENVS, key="env", what="environment")
        faults += [
            unknown_name(f"env.{env.name}", name, ENV_DATA, "data field, for its positional parameter,")
            for name in env.data
            if name not in ENV_DATA
        ]
    with gathered(faults):
        keep = resolve(recipe.keep, catalogue(selection), key="keep", what="keep function")
    with gathered(faults):
        if recipe.allocate is not None:
            allocate = resolve(recipe.allocate, catalogue(allocation), key="allocate", what="allocation")
            faults += probe_allocation(allocate)
    if env is None or keep is None or faults:
        raise RecipeError(*faults)
    return Pieces(env, keep, allocate)


def check_grades(recipe: Recipe, algorithm: Algorithm) -> None:
    """Raises RecipeError if a piece reads grades that the rewards do not give, or not one for each output."""
    if not (algorithm.predicts_grades or "grades" in algorithm.needs):
        return
    rewards = [Reward.from_spec(name, settings or {}) for name, settings in recipe.rewards.items()]
    giving = {reward.name: reward.grades for reward in rewards if reward.grades}
    if not giving:
        known = ", ".join(name for name, function in REWARDS.items() if hasattr(function, "grades"))
        raise RecipeError(
            f"rewards: a piece reads grades, but none of {', '.join(recipe.rewards)} gives any; use a verifier "
            f"that does{f' ({known})' if known else ''}, or mark your own with llmrl.marks.gives_grades"
        )
    outputs = recipe.critic.outputs
    faults = [
        f"critic.outputs: {outputs}, but rewards.{name} gives {grades} grades; give one output for each"
        for name, grades in giving.items()
        if algorithm.predicts_grades and grades != outputs
    ]
    if faults:
        raise RecipeError(*faults)


def prepare_origin(recipe: Recipe, run_dir: Path, ranks: Ranks) -> Origin:
    """The model folder, made by rank 0 where it has to be made."""
    target = run_dir / "origin"
    if ranks.is_first:
        materialize(recipe.model, target, recipe.seed)
    ranks.barrier("preparing the model folder")
    folder = materialize(recipe.model, target, recipe.seed)
    tokenizer = load_tokenizer(folder, recipe.model.chat_template)
    return Origin(folder, tokenizer, stop_token_ids(tokenizer, *_generation_configs(folder)))


def load_stage_prompts(recipe: Recipe, origin: Origin) -> LoadedPrompts:
    """Training and held-out prompts, rendered with the origin's tokenizer."""
    return load_prompts(
        origin.tokenizer,
        recipe.data,
        recipe.rollout.max_prompt_tokens,
        max_completion_tokens=recipe.rollout.max_completion_tokens,
        stop_token_ids=origin.stop_token_ids,
    )


def make_role(recipe: Recipe, origin: Origin, ranks: Ranks, device: torch.device) -> Role:
    """The actor: its trained model, and a frozen reference and a critic where the algorithm reads them.

    Raises RecipeError if the model or the rewards lack what the algorithm asks of them.
    """
    algorithm = Algorithm.from_recipe(recipe)
    check_grades(recipe, algorithm)
    training = recipe.training
    torch.manual_seed(recipe.seed)
    lm = _trainable(origin.folder, recipe)
    shared = algorithm.has_critic and recipe.critic.backbone == "shared"
    policy = _policy(lm, recipe, _value_head(lm, recipe) if shared else None).train()
    policy.check(frozenset(BEHIND.keys() & algorithm.needs))
    engine = _engine(policy, training, device)
    reference = None
    if "ref_logprobs" in algorithm.needs and recipe.model.lora is None:
        frozen = load_language_model(origin.folder, training.dtype)
        reference = _policy(frozen, recipe).to(device).eval().requires_grad_(False)
    critic = None
    if algorithm.has_critic:
        critic = ValueFunction(recipe.critic, None if shared else _critic_engine(recipe, origin, device))
    return Role("actor", algorithm, engine, training, ranks, reference, critic)


def _critic_engine(recipe: Recipe, origin: Origin, device: torch.device) -> Engine:
    """A critic with a backbone of its own: from the critic's model, or from the policy's start."""
    folder = Path(recipe.critic.model).expanduser() if recipe.critic.model else origin.folder
    lm = _trainable(folder, recipe)
    critic = Critic(lm, _value_head(lm, recipe), padding_free=recipe.training.padding_free)
    rate = recipe.critic.learning_rate or recipe.training.learning_rate
    return _engine(critic.train(), recipe.training.model_copy(update={"learning_rate": rate}), device)


def _engine(model: Policy | Critic, training: Training, device: torch.device) -> Engine:
    if training.strategy == "deepspeed":
        from llmrl.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, training, device)
    return TorchEngine(model, training, device)


def _trainable(folder: Path, recipe: Recipe) -> Any:
    checkpointing = recipe.training.gradient_checkpointing
    return load_language_model(folder, "fp32", recipe.model.lora, gradient_checkpointing=checkpointing)


def _value_head(lm: Any, recipe: Recipe) -> ValueHead:
    size = lm.config.get_text_config().hidden_size
    return ValueHead(size, recipe.critic.outputs, seed=recipe.seed)


def make_source(
    recipe: Recipe,
    pieces: Pieces,
    prompts: LoadedPrompts,
    origin: Origin,
    collector: Collector | None,
    role: Role,
) -> Source:
    """Rollouts or demonstrations, in the recipe's order."""
    stream = PromptStream(prompts.train, recipe.seed, recipe.data.train.shuffle)
    rollout = recipe.rollout
    if recipe.learn_from == "demonstrations":
        return Demonstrations(stream, prompts.demonstrations, rollout.prompts_per_step)
    assert collector is not None
    draw: Draw = Evenly(collector, rollout.group_size)
    if pieces.allocate:
        first = rollout.first_samples or max(1, rollout.group_size // 2)
        norms = partial(success_gradient_norms, role)
        draw = Allocated(collector, pieces.allocate, rollout.group_size, first, rollout.allocation_rounds, norms)
    if "greedy_rewards" in role.algorithm.needs:
        draw = WithGreedy(draw, collector)
    return Rollouts(stream, collector, draw, pieces.keep, rollout, origin.stop_token_ids)


def make_collector(
    recipe: Recipe, pieces: Pieces, origin: Origin, sampler: Sampler, workers: Workers, ranks: Ranks
) -> Collector:
    """What samples and scores this stage's prompts."""
    tokenizer: Any = origin.tokenizer
    return Collector(
        sampler,
        Rewards.from_specs(recipe.rewards, workers=workers),
        make_env=pieces.env,
        encode=encoder(tokenizer),
        decode=lambda token_ids: tokenizer.decode(token_ids, skip_special_tokens=True),
        deadline_seconds=recipe.rollout.deadline_seconds,
        rank=ranks.rank,
        ranks=ranks.size,
        gather=ranks.gather,
    )


def encoder(tokenizer: Any) -> Encode:
    """What environments encode their words with."""
    own = copy.deepcopy(tokenizer)  # split_special_tokens becomes its state, and samplers use theirs in other threads

    def encode(text: str, *, special: bool = False) -> list[int]:
        return own.encode(text, add_special_tokens=False, split_special_tokens=not special)

    return encode


class Samplers:
    """One sampler at a time, kept from stage to stage while the model's shape and the settings stay the same.

    max_concurrent: the most completions that any stage asks for at once.
    """

    def __init__(self, *, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._key: str | None = None
        self._sampler: Sampler | None = None

    def get(self, recipe: Recipe, origin: Origin, device: torch.device) -> Sampler:
        rollout = recipe.rollout
        length = rollout.max_prompt_tokens + rollout.max_completion_tokens
        shape = AutoConfig.from_pretrained(str(origin.folder)).to_diff_dict()
        shape.pop("_name_or_path", None)
        key = json.dumps([rollout.engine, recipe.training.dtype, length, rollout.engine_options, shape], default=str)
        if key != self._key:
            self.close()
            self._sampler = _make_sampler(recipe, origin, device, length, self._max_concurrent)
            self._key = key
        assert self._sampler is not None
        return self._sampler

    def close(self) -> None:
        if self._sampler is not None:
            self._sampler.close()
        self._sampler = self._key = None


def _make_sampler(recipe: Recipe, origin: Origin, device: torch.device, length: int, max_concurrent: int) -> Sampler:
    dtype = recipe.training.dtype
    if recipe.rollout.engine == "vllm":
        from llmrl.rollout.vllm_sampler import VllmSampler

        return VllmSampler(
            origin.folder,
            origin.tokenizer,
            dtype=dtype,
            max_model_len=length,
            max_concurrent=max_concurrent,
            options=recipe.rollout.engine_options,
        )
    from llmrl.rollout.transformers_sampler import TransformersSampler

    model: Any = load_language_model(origin.folder, dtype)
    return TransformersSampler(model.to(device), origin.tokenizer)


def _policy(lm: Any, recipe: Recipe, value_head: ValueHead | None = None) -> Policy:
    return Policy(
        lm,
        temperature=recipe.rollout.temperature,
        padding_free=recipe.training.padding_free,
        value_head=value_head,
        detach_values=recipe.critic.detach,
    )


def _generation_configs(folder: Path) -> list[Any]:
    configs: list[Any] = [AutoConfig.from_pretrained(str(folder))]
    with contextlib.suppress(OSError):  # a model folder may lack generation_config.json
        configs.append(GenerationConfig.from_pretrained(str(folder)))
    return configs


def reward_workers(ranks: int) -> Workers:
    """One rank's share of as many as cores, at most 8 in all: grading is short, and sampling needs the rest."""
    return Workers(max(1, min(os.cpu_count() or 1, 8) // ranks))
