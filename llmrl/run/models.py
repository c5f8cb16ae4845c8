"""The models of a stage: their folders, and their learners."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from llmrl.algorithm import Algorithm
from llmrl.engines.catalogue import make_engine
from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, gathered
from llmrl.fields import BY_NAME, CURRENT, PROVIDED, names
from llmrl.models.critic import Critic, ValueHead, saved_head
from llmrl.models.gate import Gate, load_gate
from llmrl.models.loading import (
    is_reward_model,
    load_language_model,
    load_tokenizer,
    scores_tokens,
    stop_token_ids,
)
from llmrl.models.lora import add_adapter
from llmrl.models.origins import materialize
from llmrl.models.padding_free import try_padding_free
from llmrl.models.policy import Policy
from llmrl.models.scorer import Scorer, load_reward_model, scoring_tokenizer
from llmrl.other_policies import needs_past, needs_reference
from llmrl.recipe import Model, Recipe, updating
from llmrl.recipe_file import of_roles
from llmrl.resolve import Pieces, check_grades
from llmrl.reward_model_combinations import labels_steps
from llmrl.train.critics import ValueFunction
from llmrl.train.learner import Learner
from llmrl.train.past import Extrapolated, Past
from llmrl.train.references import Moving, MovingTrained, MovingWeights
from llmrl.train.roles import Role


@dataclass(frozen=True)
class Origin:
    """A model's starting point on disk: its folder, its tokenizer, the tokens that end a completion."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: tuple[int, ...]


def prepare_origins(recipe: Recipe, run_dir: Path, ranks: Ranks, *, scoring: Collection[str] = ()) -> dict[str, Origin]:
    """Every role's starting point; a model that has to be made is made by rank 0. scoring: the roles that train a
    reward model."""
    origins: dict[str, Origin] = {}
    faults: dict[str, list[str]] = {name: [] for name in recipe.by_role}
    for name, view in recipe.by_role.items():
        if view.model.role is None:
            target = run_dir / "origin" / name if recipe.roles else run_dir / "origin"
            with gathered(faults[name]):
                origins[name] = _prepare_origin(view, target, ranks, scores=name in scoring)
    if any(faults.values()):
        raise RecipeError(*of_roles(faults))
    return {name: origins[view.model.role or name] for name, view in recipe.by_role.items()}


def _prepare_origin(recipe: Recipe, target: Path, ranks: Ranks, *, scores: bool) -> Origin:
    if ranks.is_first:
        materialize(recipe.model, target, recipe.seed)
    ranks.barrier("preparing the model folder")
    folder = materialize(recipe.model, target, recipe.seed)
    tokenizer = load_tokenizer(folder, recipe.model.chat_template, recipe.model.chat_template_kwargs)
    if recipe.training.padding_free:
        try_padding_free(AutoConfig.from_pretrained(str(folder)), True)
    stops = stop_token_ids(tokenizer, *_generation_configs(folder))
    return Origin(folder, scoring_tokenizer(tokenizer, stops) if scores else tokenizer, stops)


def make_roles(
    recipe: Recipe, pieces: Mapping[str, Pieces], origins: Mapping[str, Origin], ranks: Ranks, device: torch.device
) -> dict[str, Role]:
    """Every role that is trained, in the recipe's order.

    Raises RecipeError if a model lacks an output, or the rewards lack the grades, that an algorithm reads.
    """
    roles: dict[str, Role] = {}
    views = recipe.by_role
    for name in sorted(views, key=lambda name: views[name].model.role is not None):  # owners before roles that share
        if views[name].trained:
            owner = _owner(views, name, roles)
            view = views[name].model_copy(update={"training": updating(views, name)})
            roles[name] = make_role(view, name, pieces[name], origins[name], ranks, device, owner)
    return {name: roles[name] for name in views if name in roles}


def _owner(views: Mapping[str, Recipe], name: str, roles: Mapping[str, Role]) -> Role | None:
    """The role whose learner or base is this one's: the one that it names, or another that adapts the same frozen
    one."""
    named = views[name].model.role
    on_it = [role for other, role in roles.items() if named in (other, views[other].model.role)]
    return next(iter(on_it), None) if named else None


def make_role(
    recipe: Recipe,
    name: str,
    pieces: Pieces,
    origin: Origin,
    ranks: Ranks,
    device: torch.device,
    owner: Role | None = None,
) -> Role:
    """A trained model, with a reference and a critic if its algorithm reads them.

    owner: the role whose weights this one shares, or whose base it adapts.
    """
    algorithm = pieces.algorithm
    check_grades(recipe, algorithm)
    torch.manual_seed(recipe.seed)
    shared = algorithm.has_critic and recipe.critic.backbone == "shared"
    learner = _learner(recipe, name, algorithm, origin, ranks, device, owner, shared_critic=shared)
    if algorithm.scores:
        _note_use(learner.engine.model.inner.config, recipe, pieces)
    reference, moving = _reference(recipe, algorithm, origin, learner)
    past = _past(recipe, algorithm, origin, learner)
    critic = None
    if algorithm.has_critic:
        own = None if shared else _critic_learner(recipe, name, origin, ranks, device)
        critic = ValueFunction.of(recipe.critic, own, algorithm)
    return Role(name, pieces, learner, reference, critic, moving, past=past)


def _reference(
    recipe: Recipe, algorithm: Algorithm, origin: Origin, learner: Learner
) -> tuple[Policy | None, Moving | Extrapolated | None]:
    """The reference's own weights, and how it moves; neither for one that is LoRA's base, or measured beforehand."""
    settings, weights, moving = recipe.reference, None, None
    if not needs_reference(recipe, algorithm) or settings.precompute:
        return None, None
    if recipe.model.lora is None or settings.model is not None:
        weights = load_reference(recipe, origin, learner.engine.device)
    if settings.every is not None and settings.momentum:
        return None, Extrapolated(learner, settings.every, settings.momentum, weights)
    if settings.every is not None:
        moves = learner, settings.every, settings.mix
        moving = MovingTrained(*moves) if weights is None else MovingWeights(*moves, weights)
    return weights, moving


def _past(recipe: Recipe, algorithm: Algorithm, origin: Origin, learner: Learner) -> Past | None:
    """The earlier policies, if a piece reads them or they write completions."""
    if not needs_past(recipe, algorithm):
        return None
    model = None
    if recipe.model.lora is None:
        lm = load_language_model(origin.folder, recipe.training.dtype)
        model = _policy(lm, recipe).to(learner.engine.device).eval().requires_grad_(False)
    return Past(learner, recipe.history.every, recipe.history.kept, model)


def load_reference(recipe: Recipe, origin: Origin, device: torch.device) -> Policy:
    """The reference with weights of its own; raises RecipeError if reference.model has other tokens."""
    frozen = load_language_model(reference_folder(recipe, origin), recipe.training.dtype)
    return _policy(frozen, recipe).to(device).eval().requires_grad_(False)


def reference_folder(recipe: Recipe, origin: Origin) -> Path:
    """The folder, or hub name, of the reference's weights: the policy's start, unless the recipe names another.

    Raises RecipeError if there is no such folder, or if its tokenizer is not the policy's.
    """
    return _other_model(recipe, origin, "reference.model", "log-probabilities", recipe.reference.model)


def _other_model(recipe: Recipe, origin: Origin, key: str, outputs: str, named: str | None) -> Path:
    """The folder, or hub name, that `key` names; the policy's start without one. outputs: those of the model."""
    if named is None:
        return origin.folder
    try:
        folder = materialize(Model(path=named), Path(), recipe.seed)
        tokenizer = load_tokenizer(folder)
    except RecipeError as error:
        faults = [fault.replace("model=FOLDER", f"{key}=FOLDER") for fault in error.faults]
        raise RecipeError(*(f"{key}:{fault.partition(':')[2]}" for fault in faults)) from None
    if tokenizer.get_vocab() != origin.tokenizer.get_vocab():
        raise RecipeError(
            f"{key}: '{named}' has other tokens than the policy, so its {outputs} would be of other texts; name a "
            f"model of the same tokenizer"
        )
    return folder


def _learner(
    recipe: Recipe,
    name: str,
    algorithm: Algorithm,
    origin: Origin,
    ranks: Ranks,
    device: torch.device,
    owner: Role | None,
    *,
    shared_critic: bool,
) -> Learner:
    asked = names(PROVIDED, CURRENT) & algorithm.needs
    wanted = frozenset(str(BY_NAME[field].of_model) for field in asked if BY_NAME[field].of_model == field)
    if algorithm.scores:
        return _scorer_learner(recipe, name, algorithm, origin, ranks, device, owner)
    if owner is not None and recipe.model.lora is None:
        if shared_critic:
            raise RecipeError(f"roles.{name}.critic.backbone: shared, but {owner.name} owns the model; use own")
        owner.learner.engine.model.check(wanted)
        return owner.learner
    adapter = None
    if owner is not None and recipe.model.lora is not None:
        lm, adapter = add_adapter(owner.learner.engine.model.lm, recipe.model.lora, name, owner.name), name
    else:
        lm = _trainable(origin.folder, recipe)
    policy = _policy(lm, recipe, _value_head(lm, recipe) if shared_critic else None, adapter=adapter).train()
    policy.check(wanted)
    engine = make_engine(recipe.training.strategy, policy, recipe.training, device)
    return Learner(name, engine, recipe.training, ranks, loss_metric="loss")


def _scorer_learner(
    recipe: Recipe,
    name: str,
    algorithm: Algorithm,
    origin: Origin,
    ranks: Ranks,
    device: torch.device,
    owner: Role | None,
) -> Learner:
    """A reward model with weights of its own."""
    if owner is not None:
        raise RecipeError(f"roles.{name}.model.role: {owner.name}, but a reward model has weights of its own")
    training = recipe.training
    lm = load_reward_model(
        origin.folder,
        origin.tokenizer,
        "fp32",
        recipe.model.lora,
        heads=recipe.model.heads,
        of_tokens=algorithm.scores_tokens,
        seed=recipe.seed,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    scorer = Scorer(lm, padding_free=training.padding_free, gate=_gate(lm, recipe, origin)).train()
    if recipe.model.head_only:
        lm.requires_grad_(False)
        scorer.inner.score.requires_grad_(True)
    return Learner(name, make_engine(training.strategy, scorer, training, device), training, ranks, loss_metric="loss")


def _gate(lm: Any, recipe: Recipe, origin: Origin) -> Gate | None:
    """The gate that the recipe asks for, on frozen weights of a reward model; None if it asks for none."""
    settings = recipe.model.gate
    if settings is None:
        return None
    if not is_reward_model(AutoConfig.from_pretrained(str(origin.folder))):
        raise RecipeError(
            f"model.gate: '{origin.folder}' is no reward model, so it has no heads to weigh; train one with "
            "several heads first"
        )
    lm.requires_grad_(False)
    size = lm.config.get_text_config().hidden_size
    made = {"layers": settings.layers, "temperature": settings.temperature, "seed": recipe.seed}
    return Gate(size, recipe.model.heads, **made)


def _note_use(config: Any, recipe: Recipe, pieces: Pieces) -> None:
    """Note in a reward model's config how what is saved of it has to be read."""
    if labels_steps(pieces.algorithm):
        config.step_separator = recipe.data.train.separator
    if pieces.source.mark("joins_answers"):
        config.compares_answers = True


def _critic_learner(recipe: Recipe, name: str, origin: Origin, ranks: Ranks, device: torch.device) -> Learner:
    """A critic with a backbone of its own: from the critic's model, or from the policy's start."""
    folder = _other_model(recipe, origin, "critic.model", "values", recipe.critic.model)
    lm = _critic_model(folder, recipe, origin)
    if recipe.critic.head_only:
        lm.requires_grad_(False)
    head = _value_head(lm, recipe)
    if found := saved_head(lm, folder):
        if found["weight"].shape != head.weight.shape:
            outputs = len(found["weight"])
            raise RecipeError(
                f"critic.outputs: {len(head.weight)}, but critic.model '{folder}' has {outputs} outputs; set "
                f"critic.outputs: {outputs}"
            )
        head.load_state_dict(found)
    critic = Critic(lm, head, padding_free=recipe.training.padding_free)
    names = "learning_rate", "schedule", "updates_per_step", "epochs_per_step"
    own = {one: found for one in names if (found := getattr(recipe.critic, one)) is not None}
    training = recipe.training.model_copy(update=own)
    return Learner(f"{name}.critic", make_engine(training.strategy, critic.train(), training, device), training, ranks)


def _critic_model(folder: Path, recipe: Recipe, origin: Origin) -> Any:
    """The model whose backbone a critic has: a language model, a saved critic, or a reward model."""
    config = AutoConfig.from_pretrained(str(folder))
    lora, checkpointing = recipe.model.lora, recipe.training.gradient_checkpointing
    if recipe.critic.head_only:
        lora, checkpointing = None, False
    if not is_reward_model(config):
        return load_language_model(folder, "fp32", lora, gradient_checkpointing=checkpointing)
    if load_gate(folder) is not None:
        raise RecipeError(f"critic.model: '{folder}' weighs its heads by the prompt, which a critic does not")
    read: dict[str, Any] = {"heads": config.num_labels, "of_tokens": scores_tokens(config)}
    return load_reward_model(folder, origin.tokenizer, "fp32", lora, gradient_checkpointing=checkpointing, **read)


def _trainable(folder: Path, recipe: Recipe) -> Any:
    checkpointing = recipe.training.gradient_checkpointing
    return load_language_model(folder, "fp32", recipe.model.lora, gradient_checkpointing=checkpointing)


def _value_head(lm: Any, recipe: Recipe) -> ValueHead:
    size = lm.config.get_text_config().hidden_size
    return ValueHead(size, recipe.critic.outputs, seed=recipe.seed)


def _policy(lm: Any, recipe: Recipe, value_head: ValueHead | None = None, *, adapter: str | None = None) -> Policy:
    return Policy(
        lm,
        temperature=recipe.rollout.temperature,
        padding_free=recipe.training.padding_free,
        value_head=value_head,
        detach_values=recipe.critic.detach,
        adapter=adapter,
    )


def _generation_configs(folder: Path) -> list[Any]:
    configs: list[Any] = [AutoConfig.from_pretrained(str(folder))]
    with contextlib.suppress(OSError):  # a model folder may lack generation_config.json
        configs.append(GenerationConfig.from_pretrained(str(folder)))
    return configs
