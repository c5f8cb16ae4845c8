"""The whole loop of `llmrl train` on one page, made of the same pieces: read it to see how they fit.

    python recipes/one_page_loop.py

A tiny model learns to answer a question such as "37>" with the larger digit, by GRPO. A recipe does the same in a
dozen lines, and brings checkpoints, several ranks, DeepSpeed, vLLM, critics and failures that are handled.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llmrl.data.packing import pack
from llmrl.engines.ranks import Ranks
from llmrl.engines.torch_engine import TorchEngine
from llmrl.envs.base import AuthorText
from llmrl.envs.single_turn import single_turn
from llmrl.models.loading import load_language_model, load_tokenizer
from llmrl.models.origins import materialize
from llmrl.models.policy import Policy
from llmrl.models.text import decoder
from llmrl.ops.advantages.group import grpo
from llmrl.ops.log_ratios import token
from llmrl.ops.policy_losses.clipped import ppo_clip
from llmrl.ops.reductions import token_mean
from llmrl.pieces import bind
from llmrl.recipe import Build, Model, Training
from llmrl.rollout.collect import Collector
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import SamplingParams
from llmrl.rollout.transformers_sampler import TransformersSampler
from llmrl.train.learner import Learner, Loss
from llmrl.train.micro_batches import CreditedBatch, MetricSums, Outputs
from llmrl.types import Group, Prompt

STEPS, PROMPTS, GROUP_SIZE = 40, 16, 8
SHAPE = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 24, "initializer_range": 0.05, "tie_word_embeddings": True,
    "max_position_embeddings": 16,
}  # fmt: skip


class LargerDigit:
    """The verifier: it fills in every trajectory's reward, all at once."""

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        for trajectory in group.trajectories:
            trajectory.reward = float(trajectory.text[:1] == group.prompt.row["answer"])


@dataclass(frozen=True)
class ClippedObjective:
    """PPO's clipped loss, a mean over all tokens of the step, so that micro-batches do not change it."""

    shares: Tensor
    wanted: frozenset[str] = frozenset({"entropy"})

    def __call__(self, part: CreditedBatch, rows: Tensor, found: Outputs) -> Loss:
        old = found["logprobs"].detach()  # the batch gives one update, so the old policy is the current one
        result = ppo_clip(token(found["logprobs"], old, part.batch.response_mask), part.credit.advantages)
        loss = result.loss * self.shares[rows, : result.loss.shape[1]]
        return Loss(loss.sum(), {}, {"entropy": found["entropy"].detach()}, part.batch.response_mask)


def questions(tokenizer, count: int, seed: int) -> list[Prompt]:
    """Prompts of two digits; `row` is what a verifier reads."""
    draw, found = random.Random(seed), []
    for number in range(count):
        a, b = draw.randrange(10), draw.randrange(10)
        text = f"{a}{b}>"
        row = {"answer": str(max(a, b))}
        found.append(Prompt(f"{seed}:{number}", tuple(tokenizer.encode(text)), text, row))
    return found


def main(steps: int = STEPS) -> list[float]:
    """Train, print a line a step, return each step's mean reward."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        build = Build(architecture="qwen3", config=SHAPE, characters="0123456789>")
        folder = materialize(Model(build=build), Path(scratch) / "model", seed=0)
        tokenizer = load_tokenizer(folder)
        trained, sampled = load_language_model(folder), load_language_model(folder)

    # what trains: a model, its engine (optimizer, schedule, gradients), and how batches are cut for it
    training = Training(steps=steps, learning_rate=3e-3)
    engine = TorchEngine(Policy(trained).train(), training, torch.device("cpu"))
    learner = Learner("actor", engine, training, Ranks(), loss_metric="loss")

    # what samples: the same weights, given anew before every step; environments and verifiers run meanwhile
    text = AuthorText(
        encode=lambda text, *, special=False: tokenizer.encode(text, add_special_tokens=False),
        decode=decoder(tokenizer, {tokenizer.eos_token_id}),
    )
    author = Author(TransformersSampler(sampled, tokenizer), LargerDigit(), text)
    env = bind("single_turn", single_turn, {}, key="env")
    collector = Collector({"actor": author}, make_env=env, deadline_seconds=60.0)

    rewards = []
    for step in range(steps):
        author.sampler.load_weights(learner.weights(), step)
        params = SamplingParams(max_tokens=2, stop_token_ids=(tokenizer.eos_token_id,), seed=step)
        groups = collector.sample(questions(tokenizer, PROMPTS, step), group_size=GROUP_SIZE, params=params)

        batch = pack(groups, "actor")  # [N, T] tensors: tokens, masks, rewards on the last token
        credit = grpo(batch.rewards, batch.response_mask, batch.group_ids)
        objective = ClippedObjective(shares=token_mean(batch.response_mask))

        sums = MetricSums()
        learner.accumulate(CreditedBatch(batch, credit, fixed={}), [objective], sums)
        update = learner.step()

        rewards.append(sum(t.reward for group in groups for t in group.trajectories) / (PROMPTS * GROUP_SIZE))
        entropy = sums.means(learner.ranks, updates=1)["entropy"]
        print(f"step {step + 1:2d}  reward {rewards[-1]:.3f}  entropy {entropy:.3f}  grad norm {update.grad_norm:.2f}")
    collector.close()
    return rewards


if __name__ == "__main__":
    main()
