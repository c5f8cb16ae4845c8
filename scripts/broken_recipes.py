"""Break one sound recipe in many ways and write what `llmrl check` says of each into docs/recipes.md.

python scripts/broken_recipes.py
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmrl.cli import main as llmrl

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
START, END = "<!-- broken: generated -->\n", "<!-- end of broken -->"
SOUND = """\
model:
  build:
    characters: "0123456789+-=? "
    config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
             num_key_value_heads: 2, head_dim: 16, max_position_embeddings: 128}
data: {train: {path: sums.jsonl, prompt: "{question}="}}
method: grpo
rewards: {math_verifier: {}}
rollout: {engine: transformers, prompts_per_step: 4, group_size: 4, max_prompt_tokens: 32, max_completion_tokens: 16}
training: {steps: 10, learning_rate: 1.0e-3}
"""
ROWS = [{"question": f"{a}+{b}", "answer": str(a + b), "level": "easy"} for a in range(4) for b in range(5)]


@dataclass(frozen=True)
class Broken:
    """One mistake: what it is, what it changes in the text of the sound recipe, and overrides."""

    title: str
    changes: dict[str, str]
    overrides: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The recipe with the mistake."""
        text = SOUND
        for old, new in self.changes.items():
            assert old in text, (self.title, old)
            text = text.replace(old, new)
        return text


BROKEN = [
    Broken("A misspelt key", {"learning_rate": "lerning_rate"}),
    Broken("A value of the wrong type", {"steps: 10": "steps: many"}),
    Broken("Batches that do not divide", {"steps: 10": "steps: 10, updates_per_step: 3"}),
    Broken("A data file that is not there", {"path: sums.jsonl": "path: sum.jsonl"}),
    Broken("A column that is not there", {"{question}=": "{qestion}="}),
    Broken(
        "A verifier that rejects the data's own answers",
        {"prompt:": "answer: level, prompt:", "math_verifier: {}": "math_verifier: {extract: last_number}"},
    ),
    Broken("A reward that takes a column the data lacks", {"math_verifier: {}": '"my_rewards:near": {}'}),
    Broken("An unknown method", {"grpo": "grppo"}),
    Broken("A piece in a place where it does nothing", {"grpo": "grpo\nregularizers: {kl_k1: {weight: 0.01}}"}),
    Broken(
        "A loss without a ratio over several updates", {"grpo": "rloo", "steps: 10": "steps: 10, updates_per_step: 2"}
    ),
    Broken("A weight that counts twice", {"grpo": "topr\ntoken_weights: {truncated_is: {}}"}),
    Broken(
        "Demonstrations, which nobody scored",
        {"grpo": "grpo\nlearn_from: demonstrations", "prompt:": "completion: answer, prompt:"},
    ),
    Broken("A critic that is not there", {"grpo": "ppo\ncritic: {model: ./value_model}"}),
    Broken("A method for mixtures of experts, and a model that is none", {"grpo": "router_aware"}),
    Broken(
        "A gold answer from a column that is not there",
        {"grpo": 'repro\nproviders: {answer_logprobs: {answer: "{gold}"}}'},
    ),
    Broken("A chat without a template", {"train: {path": "train: {chat: true, path"}),
    Broken("Prompts that are too long, all of them", {"max_prompt_tokens: 32": "max_prompt_tokens: 2"}),
    Broken("A misspelt setting of a loss", {"grpo": "grpo\npolicy_loss: {ppo_clip: {clip_hi: 0.28}}"}),
    Broken("A setting out of its range", {"grpo": "grpo\npolicy_loss: {ppo_clip: {dual_clip: 1.1}}"}),
    Broken(
        "An override that two stages could mean",
        {"grpo": "grpo\nstages: {first: {training: {steps: 5}}, second: {training: {steps: 9}}}"},
        ["training.steps=20"],
    ),
    Broken("An unknown task", {"path: sums.jsonl": "task: chain_sums"}),
    Broken("A character that the model cannot write", {"0123456789+-=? ": "0123456789-=? "}),
    Broken(
        "A role with the weights of one that is not there",
        {"grpo": "grpo\nroles: {actor: {}, critiquer: {model: {role: actr}}}"},
    ),
    Broken("Several at once", {"grpo": "grpo\nkeep: mixed_outcome\nadvantage: {grpo: {std: true}}", "sums": "sum"}),
]


def main() -> None:
    """Replace the section of broken recipes."""
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), section()), encoding="utf-8")


def replaced(text: str, section: str) -> str:
    """The page's text with what stands between its two marks replaced by `section`."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{section}\n{END}{after}"


def section() -> str:
    """The sound recipe, and under each mistake its lines and the output of `llmrl check`."""
    parts = [f"```yaml\n{SOUND}```\n"]
    for broken in BROKEN:
        code, output = check(broken.text, broken.overrides)
        if code != 2:
            raise SystemExit(f"{broken.title}: exit code {code}, expected 2\n{output}")
        changed = [line for line in broken.text.splitlines() if line not in SOUND.splitlines()]
        command = " ".join(["$ llmrl check recipe.yaml", *broken.overrides])
        parts.append(f"### {broken.title}\n")
        parts.append("```yaml\n" + "\n".join(changed) + "\n```\n\n" + f"```console\n{command}\n{output}```\n")
    return "\n".join(parts)


def check(recipe: str, overrides: list[str]) -> tuple[int, str]:
    """The exit code and the faults that `llmrl check` prints for a recipe, with sums.jsonl beside it."""
    out, faults, code = io.StringIO(), io.StringIO(), 0
    argv = sys.argv
    with _folder() as folder, contextlib.redirect_stdout(out), contextlib.redirect_stderr(faults):
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
        sys.argv = ["llmrl", "check", "recipe.yaml", *overrides]
        try:
            llmrl()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        finally:
            sys.argv = argv
    return code, faults.getvalue()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder with the data of the recipes, made the working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
        (folder / "my_rewards.py").write_text(MY_REWARDS, encoding="utf-8")
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


MY_REWARDS = "def near(completion, result):\n    return float(completion.strip() == result)\n"

if __name__ == "__main__":
    main()
