"""The task `table`: answers of one token, true rewards that are known, and the policy that is best near the start.

    chosen a over b with probability sigmoid(r(x, a) - r(x, b))            Bradley and Terry
    best(a | x) = start(a | x) exp(r(x, a)) / sum_b ...                    for beta = 1

Each method's own pieces, reference, providers and controllers run in the real training step; only the pairs are made
here, anew for every step. A method that learns from samples gets those of its current policy, with their true rewards.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llmrl.data.packing import pack
from llmrl.data.written import Span, Written
from llmrl.engines.ranks import Ranks
from llmrl.prove.catalogue import task_file
from llmrl.prove.results import Result, Run
from llmrl.recipe import Recipe
from llmrl.recipe_file import load_plan
from llmrl.resolve import Pieces, resolve_pieces
from llmrl.run.models import make_roles, prepare_origins
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.sources import compared_group
from llmrl.train.step import update
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

PROMPTS, ANSWERS = "abcd", "ABCDEF"
BETA = 1.0
"""The strength of the pull to the start, given to every loss that has one, so that they have one optimum."""
TRUTH = 17  # the seed of the true rewards


@dataclass(frozen=True)
class Table:
    """The tokens of prompts [X] and of answers [A], the true rewards [X, A], and the start's probabilities [X, A]."""

    prompts: Tensor
    answers: Tensor
    rewards: Tensor
    start: Tensor

    @property
    def best(self) -> Tensor:
        """The policy of highest mean reward less BETA times its divergence from the start: [X, A]."""
        return (self.start.log() + self.rewards / BETA).softmax(dim=1)

    def measured(self, policy: Tensor) -> dict[str, float]:
        """Numbers about a policy's probabilities [X, A], as means over prompts."""
        top = self.rewards.argmax(dim=1)
        hit = policy[torch.arange(len(top)), top]
        return {
            "accuracy": float(hit.mean()),
            "greedy": float((policy.argmax(dim=1) == top).double().mean()),
            "pass@8": float((1 - (1 - hit) ** 8).mean()),
            "reward": float((policy * self.rewards).sum(dim=1).mean()),
            "KL to the optimum": divergence(self.best, policy),
        }


def divergence(one: Tensor, other: Tensor) -> float:
    """KL(one || other) of probabilities [X, A], in nats, the mean over prompts."""
    return float((one * (one.log() - other.log())).sum(dim=1).mean())


def make(run: Run) -> Result:
    """Train the run's method on the table."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe = recipe_of(run, Path(scratch))
        pieces = resolve_pieces(recipe)
        origins = prepare_origins(recipe, Path(scratch), Ranks())
        role = make_roles(recipe, {ACTOR: pieces}, origins, Ranks(), torch.device("cpu"))[ACTOR]
        tokenizer = origins[ACTOR].tokenizer
    draw = torch.Generator().manual_seed(TRUTH)
    rewards = torch.randn(len(PROMPTS), len(ANSWERS), generator=draw, dtype=torch.float64)
    prompts, answers = (torch.tensor(tokenizer.encode(text)) for text in (PROMPTS, ANSWERS))
    start, _ = probabilities(role, prompts, answers)
    table = Table(prompts, answers, rewards, start)
    draw.manual_seed(run.seed)
    for step in range(recipe.training.known_steps):
        groups = _groups(table, role, recipe, pieces, draw)
        if not any(group.trajectories for group in groups):
            continue  # each prompt's samples are one and the same answer, so nothing is left to compare
        batch = provide(role, pack(groups, ACTOR), groups=groups, tokenizer=tokenizer, seed=step)
        metrics = update(role, batch, seed=step)
        if role.moving:
            role.moving.after(step + 1)
        role.control(metrics)
    trained, _ = probabilities(role, prompts, answers)
    return Result(
        run,
        before=table.measured(start),
        after=table.measured(trained),
        entropy=(entropy(start), entropy(trained)),
        kl=divergence(trained, start),
    )


def recipe_of(run: Run, folder: Path) -> Recipe:
    """The task's recipe with the run's method and seed, and with BETA."""
    own = [f"method={run.method}", f"seed={run.seed}", f"run_dir={folder}"]
    found = load_plan(task_file(run.task), own).stages["train"]
    betas = [
        f"preference_loss.{one.piece.name}.beta={BETA}"
        for one in resolve_pieces(found).algorithm.preference_loss
        if "beta" in one.piece.settings
    ]
    return load_plan(task_file(run.task), own + betas).stages["train"]


@torch.no_grad()
def probabilities(role: Role, prompts: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """The policy's probabilities of the answers among the answers, and their log-probabilities: [X, A] fp64 each."""
    rows = torch.cartesian_prod(prompts, answers)
    said = torch.tensor([False, True]).expand(len(rows), 2)
    found = role.learner.engine.model(rows, torch.ones_like(said), said)["logprobs"][:, 1]
    logprobs = found.double().unflatten(0, (len(prompts), len(answers)))
    return logprobs.softmax(dim=1), logprobs


def entropy(policy: Tensor) -> float:
    """The entropy of probabilities [X, A] in nats, the mean over prompts."""
    return float(-(policy * policy.log()).sum(dim=1).mean())


def _groups(table: Table, role: Role, recipe: Recipe, pieces: Pieces, draw: torch.Generator) -> list[Group]:
    """The groups of a step: pairs from the start, or the current policy's samples."""
    asked = torch.randint(len(table.prompts), (recipe.rollout.prompts_per_step,), generator=draw).tolist()
    if not pieces.algorithm.samples:
        return [_pair(table, x, number, draw) for number, x in enumerate(asked)]
    policy, logprobs = probabilities(role, table.prompts, table.answers)
    groups = []
    for number, x in enumerate(asked):
        drawn = torch.multinomial(policy[x], recipe.rollout.group_size, replacement=True, generator=draw).tolist()
        group = Group(_prompt(table, x, number), [_sampled(table, x, a, logprobs) for a in drawn], ACTOR)
        for trajectory in group.trajectories:
            trajectory.prompt = group.prompt
        group.trajectories = pieces.keep({"group": group})
        groups.append(group)
    return groups


def _pair(table: Table, x: int, number: int, draw: torch.Generator) -> Group:
    """Two different answers of the start, the likelier chosen of which has the higher true reward."""
    one, other = torch.multinomial(table.start[x], 2, generator=draw).tolist()
    wins = torch.sigmoid(table.rewards[x, one] - table.rewards[x, other])
    if torch.rand((), generator=draw, dtype=torch.float64) > wins:
        one, other = other, one
    written = [Written([Span([int(table.answers[a])])], reward) for a, reward in ((one, 1.0), (other, 0.0))]
    return compared_group(_prompt(table, x, number), written, ACTOR)


def _prompt(table: Table, x: int, number: int) -> Prompt:
    return Prompt(f"{number}", (int(table.prompts[x]),), PROMPTS[x], {})


def _sampled(table: Table, x: int, a: int, logprobs: Tensor) -> Trajectory:
    turn = Turn(ACTOR, [int(table.answers[a])], [float(logprobs[x, a])])
    reward = float(table.rewards[x, a])
    return Trajectory(_prompt(table, x, 0), [turn], stop_reason="stop", reward=reward, author=ACTOR)
