"""Combinations of pieces and settings that cannot work, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from llmrl.algorithm import OF_CURRENT_POLICY, Algorithm
from llmrl.axes import OF_CRITIC
from llmrl.critic_combinations import CRITIC_RULES
from llmrl.errors import RecipeError, unknown_name
from llmrl.fields import BY_NAME, CRITIC, CURRENT, FIELDS, PAST, REFERENCE
from llmrl.other_policies import guide_faults, momentum_faults, search_faults
from llmrl.pieces import Piece
from llmrl.probe import of_pairs
from llmrl.recipe import Recipe
from llmrl.reward_model_combinations import gate_weighs_heads, head_is_there
from llmrl.rollout.catalogue import VLLM_RANKS

OF_ROLLOUTS = frozenset(field.name for field in FIELDS if field.sampled)
"""Fields that only sampled and scored completions have."""

OF_POLICY = frozenset(
    field.name
    for field in FIELDS
    if field.by in (CRITIC, REFERENCE, PAST, "the policy at step start")
    or (field.moment == CURRENT and field.name not in ("scores", *OF_CRITIC))
)
"""Fields that only runs with a policy have."""


def refused(recipe: Recipe, algorithm: Algorithm) -> list[str]:
    """Every fault of the recipe's pieces as a whole."""
    return [fault for rule in (*RULES, *CRITIC_RULES, momentum_faults) for fault in rule(recipe, algorithm)]


def check_rows(
    recipe: Recipe, algorithm: Algorithm, rows: int, completions: Collection[int], components: int = 0
) -> None:
    """Raises RecipeError if no row has the pair that a preference loss compares, if rows lack a component for each head
    of a loss of components, or if the last step of an epoch is too small for a piece that compares its prompts.

    rows: how many an epoch has. completions: how many written ones each row has; none if nothing is written.
    components: of each written completion's reward.
    """
    if "reward_components" in algorithm.needs and not algorithm.samples and components != recipe.model.heads:
        raise RecipeError(
            f"model.heads: {recipe.model.heads}, but the rows say how good a completion is in {components} respects "
            f"(data.train.components); give a head for each"
        )
    pairless = [one.piece.name for one in algorithm.preference_loss if of_pairs(one.piece)]
    if pairless and completions and max(completions) < 2:
        raise RecipeError(
            f"preference_loss: {pairless[0]} compares two completions of a prompt, but every row of data.train has one "
            "with a label; use a loss of single completions, such as kto, or rows with pairs"
        )
    alone = recipe.training.epochs is not None and rows % recipe.rollout.prompts_per_step == 1
    for key, piece in algorithm.placed() if alone else ():
        if piece.mark("compares_prompts"):
            raise RecipeError(
                f"training.epochs: the last step of an epoch has 1 of {rows} prompts, but {key} {piece.name} compares "
                f"completions with those of other prompts; change rollout.prompts_per_step or data.train.limit"
            )


def _something_is_learnt(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if not (algorithm.trains_tokens or algorithm.compares) and recipe.trained:
        yield "policy_loss: none, and neither is preference_loss, so nothing would be learnt; name a loss, or a method"


def _something_is_done(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if not recipe.trained and not algorithm.samples:
        yield f"trained: false, and learn_from {_named(recipe.learn_from)} samples nothing, so there is nothing to do"


def _one_kind_of_model(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if not algorithm.scores:
        if recipe.model.heads > 1:
            yield f"model.heads: {recipe.model.heads}, but no piece reads scores, so no reward model is trained"
        return
    reader = next(one.piece.name for one in algorithm.preference_loss if reads_scores(one.piece))
    trains = f"preference_loss: {reader} reads scores, so a reward model is trained"
    if read := sorted(OF_POLICY & algorithm.needs):
        yield f"{trains}, but a piece reads {read[0]}, which only a policy gives; train them in two stages"
    elif algorithm.trains_tokens:
        yield f"{trains}, which has no policy_loss and no regularizers; leave them out"
    if algorithm.samples:
        yield f"{trains}, but learn_from {_named(recipe.learn_from)} samples from it; use preferences"


def _directions_are_of_rewards(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    for part, rows in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        for name in rows.direction.rewards if rows and rows.direction and recipe.rewards else ():
            if name not in recipe.rewards:
                yield unknown_name(f"data.{part}.direction.rewards", name, recipe.rewards, "reward of the recipe")


def _sampler_searches(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    beams, engine = recipe.evaluation.beams, recipe.rollout.engine
    if beams > 1 and engine != "transformers":
        yield f"evaluation.beams: {beams}, but rollout.engine {engine} has no beam search; use transformers"


def _advantage_is_there(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if algorithm.policy_loss is None:
        return
    if "advantages" in algorithm.policy_loss.data and algorithm.advantage is None:
        yield f"policy_loss: {algorithm.policy_loss.name} uses advantages, but the recipe names no advantage"


def _groups_are_there(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if recipe.rollout.group_size > 1 or recipe.moves:  # the groups of moves have sizes of their own
        return
    for key, piece in algorithm.placed():
        if "group_ids" in piece.data:
            yield (
                f"{key}: {piece.name} compares trajectories of one prompt, so rollout.group_size "
                f"must be at least 2, got {recipe.rollout.group_size}"
            )


def _several_prompts_are_there(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    for key, piece in algorithm.placed():
        if piece.mark("compares_prompts") and recipe.rollout.prompts_per_step < 2:
            yield (
                f"{key}: {piece.name} compares completions with those of other prompts, so rollout.prompts_per_step "
                f"must be at least 2, got {recipe.rollout.prompts_per_step}"
            )


def _groups_stay_whole(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if "best_of" not in _named(recipe.keep):
        return
    for key, piece in algorithm.placed():
        if "group_ids" in piece.data:
            yield (
                f"keep: best_of takes a part of each group, but {key} {piece.name} compares a trajectory with all of "
                f"its group; use keep: everything, or pieces without groups such as the advantage accepted"
            )


def _changed_rewards_are_read(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    changes = [("token_rewards", w.piece) for w in algorithm.token_rewards]
    changes += [("reward_shaping", piece) for piece in algorithm.reward_shaping]
    if algorithm.advantage and "rewards" in algorithm.advantage.data:
        return
    reader = f"{algorithm.advantage.name}, which does not" if algorithm.advantage else "none"
    for key, piece in changes:
        yield f"{key}.{piece.name}: changes the rewards that the advantage reads, but that is {reader}"


def _rollouts_are_there(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if algorithm.samples:
        return
    for name in sorted((OF_ROLLOUTS & algorithm.needs) - algorithm.given):
        yield f"learn_from: {recipe.learn_from} samples and scores nothing, but a piece reads {name}"
    for one in algorithm.preference_loss if "rewards" not in algorithm.given else ():
        if of_pairs(one.piece) or "completion_rewards" in one.piece.data:
            yield (
                f"learn_from: {recipe.learn_from} gives completions no rewards, by which preference_loss "
                f"{one.piece.name} would compare them"
            )
    if recipe.allocate is not None:
        yield f"allocate: learn_from {recipe.learn_from} samples nothing that could be allocated"


def _on_policy(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    updates = recipe.training.updates_per_step * recipe.training.epochs_per_step
    advantage = algorithm.advantage
    if updates == 1 or not algorithm.samples:
        return
    pairs: list[tuple[str, Piece | None]] = [("advantage", advantage)]
    if not (advantage and advantage.mark("made_for_stale_samples")):
        pairs.append(("policy_loss", algorithm.policy_loss))
    for key, piece in pairs:
        reason = piece.mark("exact_on_policy") if piece else None
        if piece and reason:
            yield (
                f"{key}: {piece.name}: {reason}, but training.updates_per_step x epochs_per_step is {updates}; "
                f"set both to 1"
            )


def _penalties_have_gradients(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    for regularizer in algorithm.regularizers:
        reason = regularizer.piece.mark("reward_only")
        if reason:
            yield f"regularizers.{regularizer.piece.name}: {reason}"


def _penalties_keep_their_weight(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    advantage = algorithm.advantage
    if not advantage or not algorithm.token_rewards or "group_ids" not in advantage.data:
        return
    if advantage.setting("normalize_std") and not advantage.setting("batch_std"):
        yield (
            f"token_rewards: advantage {advantage.name} divides by each group's standard deviation, which gives every "
            f"prompt another weight of the penalty; put it into regularizers, or set normalize_std: false"
        )


def _mismatch_counts_once(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    against_sampler = "rollout_logprobs" in algorithm.log_ratio.data and "log_ratio" in algorithm.needs
    advantage = algorithm.advantage
    weighs_credit = advantage is not None and "rollout_logprobs" in advantage.data
    if against_sampler and weighs_credit and advantage:
        yield (
            f"log_ratio: {algorithm.log_ratio.name} is against the sampler's probabilities, and so are the weights in "
            f"advantage {advantage.name}, so this would count their ratio twice; use log_ratio: token"
        )
    for piece in algorithm.token_weights:
        if "rollout_logprobs" not in piece.data or piece.mark("rejects_only"):
            continue
        if against_sampler:
            yield (
                f"token_weights.{piece.name}: log_ratio {algorithm.log_ratio.name} is against the sampler's "
                f"probabilities already, so this would count their ratio twice; use log_ratio: token"
            )
        elif weighs_credit and advantage:
            yield (
                f"token_weights.{piece.name}: advantage {advantage.name} weighs its credit by the ratio to the "
                f"sampler's probabilities already, so this would count it twice; leave it out"
            )


def _reference_can_be_measured_once(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if not recipe.reference.precompute or not algorithm.has_reference:
        return
    if recipe.reference.every is not None:
        yield (
            f"reference.precompute: the rows are measured once, but reference.every {recipe.reference.every} moves the "
            f"reference; leave one of the two out"
        )
    if algorithm.samples:
        yield (
            f"reference.precompute: learn_from {_named(recipe.learn_from)} samples new completions at every step, so "
            f"there is nothing to measure before the first; leave it out, or learn from preferences or demonstrations"
        )


def _coupled_losses_can_be_taken_apart(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    if not algorithm.is_coupled or algorithm.policy_loss is None:
        return
    for name in sorted((OF_CURRENT_POLICY - {"logprobs", "log_ratio"}) & set(algorithm.policy_loss.data)):
        yield (
            f"policy_loss: {algorithm.policy_loss.name} reads group_ids, so it is differentiated over the whole update "
            f"by its log-probabilities alone, but it also reads {name}"
        )


def _settings_agree(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    pairs = [("value", algorithm.value, "value_loss", algorithm.value_loss, ("low", "high"))]
    if algorithm.advantage and algorithm.policy_loss:
        pairs += [("advantage", algorithm.advantage, "policy_loss", algorithm.policy_loss, ("temperature",))]
    if algorithm.value_target and algorithm.policy_loss:
        pairs += [("value_target", algorithm.value_target, "policy_loss", algorithm.policy_loss, ("alpha",))]
    for key, first, other, second, names in pairs:
        for name in names:
            if name in first.settings and second.settings.get(name, first.settings[name]) != first.settings[name]:
                yield (
                    f"{key}.{first.name}.{name}: {first.settings[name]}, but {other}.{second.name}.{name} is "
                    f"{second.settings[name]}; they measure the same thing and have to be equal"
                )


def _sets_fit_groups(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    advantage = algorithm.advantage
    size = advantage.setting("set_size") if advantage else None
    if advantage and size is not None and size >= recipe.rollout.group_size:
        yield (
            f"advantage.{advantage.name}.set_size: {size} leaves no two sets of a group to compare; "
            f"expected less than rollout.group_size {recipe.rollout.group_size}"
        )


def _rank_can_be_served(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    lora = recipe.model.lora
    if lora and algorithm.samples and recipe.rollout.engine == "vllm" and lora.rank > max(VLLM_RANKS):
        yield f"model.lora.rank: {lora.rank}, but vllm serves adapters of at most {max(VLLM_RANKS)}"


def reads_scores(piece: Piece) -> bool:
    """Whether a piece reads a reward model's scores."""
    return any("scores" in (name, *BY_NAME[name].made_of) for name in piece.data if name in BY_NAME)


def _named(spec: object) -> str:
    return spec if isinstance(spec, str) else next(iter(spec)) if isinstance(spec, dict) else ""


RULES = (
    _something_is_learnt,
    _something_is_done,
    _one_kind_of_model,
    gate_weighs_heads,
    head_is_there,
    _directions_are_of_rewards,
    _sampler_searches,
    guide_faults,
    search_faults,
    _advantage_is_there,
    _groups_are_there,
    _several_prompts_are_there,
    _groups_stay_whole,
    _changed_rewards_are_read,
    _rollouts_are_there,
    _on_policy,
    _penalties_have_gradients,
    _penalties_keep_their_weight,
    _mismatch_counts_once,
    _reference_can_be_measured_once,
    _coupled_losses_can_be_taken_apart,
    _settings_agree,
    _sets_fit_groups,
    _rank_can_be_served,
)
