"""A run with a replay that is killed in the middle of an episode goes on as if it had not been."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from small_run import assert_equal_runs, checkpoints, copy_run, lay_out, metrics, together, train

WORLD = Path(__file__).parent.parent / "support" / "secret_digit.py"
RECIPE = """
name: small
seed: 5
model:
  build:
    config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 1,
      num_key_value_heads: 1, head_dim: 32, initializer_range: 0.2, max_position_embeddings: 64}
    characters: "0123456789+-?"
data: {train: {path: games.jsonl, prompt: question}}
env: "secret_digit:secret_digit"
turns: {most: 3, max_tokens: 1, past_most: lost}
method: archer
critic: {context: "{hidden}", warmup_steps: 1, updates_per_step: 3, learning_rate: 1.0e-3,
  replay: {capacity: 24, batch: 12, fresh: 0.25, prioritised: {}}}
rollout: {engine: transformers, prompts_per_step: 4, group_size: 2, max_prompt_tokens: 8, max_completion_tokens: 8}
training: {threads: 1, steps: 5, learning_rate: 1.0e-3}
checkpoint: {every: 2, keep_last: 1}
"""


def lay(folder: Path) -> Path:
    lay_out(folder)
    shutil.copy(WORLD, folder)
    rows = [{"question": "?", "secret": str(digit)} for digit in range(4, 10)]
    (folder / "games.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.yaml").write_text(RECIPE)
    return folder


def killed(folder: Path) -> Path:
    code, printed = train(lay(folder), "run", interrupt={"place": "act", "after": ["train", 3], "count": 5})
    assert code == -9 and checkpoints(folder / "run") == ["train-000002"], printed
    return folder


def whole(folder: Path) -> Path:
    code, printed = train(lay(folder), "run")
    assert code == 0, printed
    return folder


def test_killed_in_an_episode_it_goes_on_bit_for_bit(tmp_path):
    one, other = together(lambda: whole(tmp_path / "whole"), lambda: killed(tmp_path / "killed"))
    folder = other / "run" / "replay" / "train" / "actor"
    with sorted(folder.iterdir())[-1].open("ab") as file:
        file.write(b'{"prompt": {"id": "to')  # as a write that was cut off leaves it
    lay(copy_run(other / "run", tmp_path / "resumed"))
    code, printed = train(tmp_path / "resumed", "run", "--resume")
    assert code == 0 and "resumed after step 2" in printed, printed
    resumed, expected = tmp_path / "resumed" / "run", one / "run"
    assert_equal_runs(resumed, expected)
    kept = [torch.load(run / "checkpoints/train-000005/actor.critic.pt")["weights"] for run in (resumed, expected)]
    assert kept[0].keys() == kept[1].keys() and all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    last = metrics(resumed)[-1]
    assert last["replay/trajectories"] == 24 and 0 < last["replay/staleness"] < 3
    # segments of 3, and 24 of the 40 trajectories
    assert len(list((resumed / "replay" / "train" / "actor").iterdir())) == 9
