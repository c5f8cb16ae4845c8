"""The tiny model, recipe and fixed batch that the tests of training share, in this process and under a launcher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3ForTokenClassification,
)

from llmrl.algorithm import Algorithm
from llmrl.batch import Batch
from llmrl.engines.catalogue import make_engine
from llmrl.engines.ranks import Ranks
from llmrl.models.critic import Critic, ValueHead
from llmrl.models.gate import Gate
from llmrl.models.policy import Policy
from llmrl.models.scorer import ScoreHead, Scorer, draw_head
from llmrl.other_policies import needs_past
from llmrl.providers.gradients import gradient_norms, influence
from llmrl.recipe import Recipe, Training
from llmrl.resolve import resolve_pieces
from llmrl.train.critics import ValueFunction
from llmrl.train.learner import Learner
from llmrl.train.past import Extrapolated, Past
from llmrl.train.provide import provide
from llmrl.train.references import MovingTrained, MovingWeights
from llmrl.train.roles import Role
from llmrl.train.step import update
from llmrl.types import Group

CPU = torch.device("cpu")
VOCABULARY = 41
TEMPERATURE = 0.7

GRPO = {"advantage": "grpo", "policy_loss": "ppo_clip", "reduce": "token_mean"}
GSPO_KL = {
    "advantage": "grpo",
    "log_ratio": "sequence",
    "policy_loss": "ppo_clip",
    "regularizers": {"kl_k3": {"weight": 0.3}, "entropy_bonus": {"weight": 0.1}},
    "reduce": "sequence_mean",
}
# every engine over several processes, and how a recipe asks for it
STRATEGIES: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"strategy": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "ddp": {"strategy": "accelerate"},
    "fsdp": {"strategy": "accelerate", "accelerate": {"fsdp": True}},
}
# turns: P prompt, A the actor's, E the environment's; one trajectory never got to speak
LAYOUTS = ["PPAAAA", "PPAAEEAAA", "PPPPA", "PPPPAAEA", "PAAAAAAAAAEEA", "PPP", "PPAAA"]


def tiny_lm(seed: int = 0, *, tied: bool = True) -> Any:
    """A random Qwen3 whose distributions are far from uniform."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        attn_implementation="sdpa",
        use_cache=False,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config)


def tiny_scorer(heads: int = 1, seed: int = 0, *, of_tokens: bool = False) -> Any:
    """A reward model on the backbone of `tiny_lm`; of_tokens: one of steps."""
    lm = tiny_lm(seed)
    kind = Qwen3ForTokenClassification if of_tokens else Qwen3ForSequenceClassification
    config = copy.deepcopy(lm.config)
    config.classifier_dropout = 0.0  # transformers puts dropout before a token classifier's head
    model = kind(config)
    model.model, model.score = lm.model, ScoreHead(32, heads, bias=False)
    model.config.num_labels = heads
    draw_head(model.score, seed)
    return model


def with_lora(lm: Any, seed: int = 1, *, dropout: float = 0.0) -> Any:
    """The model with adapters that already do something: peft starts them at zero."""
    torch.manual_seed(seed)
    adapted = get_peft_model(
        lm, LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return adapted


def tiny_policy(lm: Any = None, *, padding_free: bool | None = None, **settings: Any) -> Policy:
    return Policy(lm or tiny_lm(), temperature=TEMPERATURE, padding_free=padding_free, **settings).train()


def value_head(outputs: int = 1) -> ValueHead:
    return ValueHead(32, outputs, seed=2)


def tiny_critic(lm: Any = None, *, outputs: int = 1, padding_free: bool | None = None) -> Critic:
    """A critic whose backbone is not the policy's."""
    return Critic(lm or tiny_lm(seed=4), value_head(outputs), padding_free=padding_free).train()


def make_recipe(**pieces: Any) -> Recipe:
    recipe = {
        "name": "case",
        "run_dir": "unused",
        "model": "unused",
        "data": {"train": {"path": "unused"}},
        "rewards": {"math_verifier": {}},
    }
    return Recipe.model_validate(recipe | pieces)


def make_algorithm(**pieces: Any) -> Algorithm:
    return resolve_pieces(make_recipe(**pieces)).algorithm


def role_of(
    pieces: dict[str, Any],
    *,
    lm: Any = None,
    critic_lm: Any = None,
    padding_free: bool | None = None,
    ranks: Ranks | None = None,
    device: torch.device = CPU,
    **settings: Any,
) -> Role:
    """An actor with what its algorithm asks for: a reference (`tiny_lm(3)`, or LoRA's base; one that moves if `pieces`
    say so), earlier policies, a critic (`tiny_critic`); a `tiny_scorer` if pieces read scores.

    settings: of training, the engine's name among them.
    """
    recipe, training = make_recipe(**pieces), make_training(**settings)
    resolved, ranks, critic, outputs = resolve_pieces(recipe), ranks or Ranks(), None, recipe.critic.outputs
    algorithm = resolved.algorithm

    def learner(name: str, model: Any, loss_metric: str | None = None, *, rate: float | None = None) -> Learner:
        own = training.model_copy(update={"learning_rate": rate}) if rate else training
        return Learner(name, make_engine(training.strategy, model, own, device), own, ranks, loss_metric)

    if algorithm.scores:
        made = lm or tiny_scorer(recipe.model.heads, of_tokens=algorithm.scores_tokens)
        gate = recipe.model.gate
        if gate is not None:
            made.requires_grad_(False)
            gate = Gate(32, recipe.model.heads, layers=gate.layers, temperature=gate.temperature)
        scorer = Scorer(made, padding_free=padding_free, gate=gate).train()
        return Role("actor", resolved, learner("actor", scorer, "loss"))
    shared = algorithm.has_critic and recipe.critic.backbone == "shared"
    head = value_head(outputs) if shared else None
    policy = tiny_policy(lm, padding_free=padding_free, value_head=head, detach_values=recipe.critic.detach)
    if training.gradient_checkpointing:
        policy.inner.gradient_checkpointing_enable({"use_reentrant": False})
    if algorithm.has_critic:
        own = tiny_critic(critic_lm, outputs=outputs, padding_free=padding_free)
        of_own = None if shared else learner("actor.critic", own, rate=recipe.critic.learning_rate)
        critic = ValueFunction.of(recipe.critic, of_own, algorithm)
    has_own_reference = "ref_logprobs" in algorithm.needs and not isinstance(policy.lm, PeftModel)
    reference = tiny_policy(tiny_lm(seed=3), padding_free=padding_free) if has_own_reference else None
    reference = reference.to(device).eval() if reference else None
    of_policy, moving, moves = learner("actor", policy, "loss"), None, recipe.reference
    if moves.every is not None and moves.momentum:
        moving, reference = Extrapolated(of_policy, moves.every, moves.momentum, reference), None
    elif moves.every is not None:
        settings = of_policy, moves.every, moves.mix
        moving = MovingWeights(*settings, reference) if reference else MovingTrained(*settings)
    past, history = None, recipe.history
    if needs_past(recipe, algorithm):
        whole = None if isinstance(policy.lm, PeftModel) else tiny_policy(padding_free=padding_free).to(device).eval()
        past = Past(of_policy, history.every, history.kept, whole)
    return Role("actor", resolved, of_policy, reference, critic, moving, past=past)


def make_training(**settings: Any) -> Training:
    few = {"learning_rate": 1e-2, "steps": 10, "tokens_per_micro_batch": 12, "max_grad_norm": 0.05}
    return Training.model_validate(few | settings)


def fixed_batch(layouts: list[str] = LAYOUTS, seed: int = 5) -> Batch:
    """Trajectories of unequal length; groups interleave, rewards differ within each."""
    generator = torch.Generator().manual_seed(seed)
    rows, width = len(layouts), max(map(len, layouts))
    token_ids = torch.randint(0, VOCABULARY, (rows, width), generator=generator)
    lengths = torch.tensor([len(layout) for layout in layouts])
    attention_mask = torch.arange(width) < lengths[:, None]
    response_mask = torch.tensor([[t < len(row) and row[t] == "A" for t in range(width)] for row in layouts])
    rewards = torch.zeros(rows, width)
    for row, layout in enumerate(layouts):
        if "A" in layout:
            rewards[row, layout.rindex("A")] = float(torch.rand((), generator=generator))
    noise = torch.rand(rows, width, generator=generator)
    return Batch(
        token_ids=torch.where(attention_mask, token_ids, 0),
        attention_mask=attention_mask,
        response_mask=response_mask,
        rewards=rewards,
        group_ids=torch.arange(rows) % 3,
        rollout_logprobs=torch.where(response_mask, -noise, 0.0),
        correct=torch.full((rows,), float("nan")),
        policy_version=torch.zeros(rows, dtype=torch.int64),
    )


def turn_ids(layouts: list[str] = LAYOUTS) -> Tensor:
    """Which of the actor's turns each token of `fixed_batch` belongs to, -1 off the response."""
    found = torch.full((len(layouts), max(map(len, layouts))), -1)
    for row, layout in enumerate(layouts):
        turn = -1
        for t, author in enumerate(layout):
            turn += author == "A" and layout[t - 1] != "A"
            found[row, t] = turn if author == "A" else -1
    return found


def train(role: Role, batch: Batch, step: int = 0) -> dict[str, float]:
    """The step of that number on the batch; its metrics."""
    return update(role, provide(role, batch), seed=step, step=step)


def engines_of(role: Role) -> dict[str, Any]:
    """The engines that a role trains, by what they train."""
    own = role.critic.learner if role.critic else None
    return {"policy": role.learner.engine} | ({"critic": own.engine} if own else {})


def at_the_head(role: Role, batch: Batch, groups: Sequence[Group]) -> dict[str, list[float]]:
    """What providers measure of the LM head's gradients."""
    return {
        "success_gradient_norms": gradient_norms(groups, role.learner).tolist(),
        "influence": influence(batch, role.learner).tolist(),
    }


def record_gradients(engine: Any) -> list[dict[str, Tensor]]:
    """A list that grows by the whole gradients of each optimizer step."""
    seen: list[dict[str, Tensor]] = []
    step = engine.step

    def recording_step() -> Any:
        seen.append(engine.full_gradients())
        return step()

    engine.step = recording_step
    return seen


def weights_of(engine: Any) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in engine.weights()}


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).detach().abs().max()) for name in expected)


def identical(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
