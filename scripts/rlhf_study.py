"""DPO, PPO and online DPO on the same preferences and the same reward model, several seeds each.

    llmrl train recipes/preference/rlhf.yaml                    # the start, its samples with labels, the reward model
    python scripts/rlhf_study.py runs/rlhf --write docs/rlhf_study.md

Every run starts from the model that imitated demonstrations in the recipe's run, has the same budget of steps and is
evaluated at the same steps on the same held-out questions. DPO learns from the labelled samples, the other two from
the reward model, which was trained on these. `llmrl overoptimization` makes the page of all runs. A run that is
finished is not done again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

STAGES: dict[str, dict[str, Any]] = {
    "dpo": {
        "method": "dpo",
        "rollout": {"prompts_per_step": 16},
        "training": {"learning_rate": 1.0e-4},
    },
    "online_dpo": {
        "method": "online_dpo",
        "rollout": {"prompts_per_step": 16, "group_size": 4},
        "training": {"learning_rate": 2.0e-4},
    },
    "ppo": {
        "method": "ppo",
        "rollout": {"prompts_per_step": 16, "group_size": 4},
        "token_rewards": {"kl_k1": {"weight": 0.02}},
        "critic": {"learning_rate": 1.0e-3},
        "training": {"learning_rate": 2.0e-4},
    },
}
"""What each method changes; beta of both losses is 0.1."""
STEPS, EVERY = 40, 8


def recipe(base: Path, questions: dict[str, Any], seed: int) -> dict[str, Any]:
    """The recipe of one seed: a stage for each method, all from the same start. questions: the `data` of the base's
    reinforcement learning."""
    held_out = {"eval": questions["eval"]}
    data = {name: held_out | {"train": questions["train"]} for name in STAGES}
    data["dpo"] = held_out | {"train": {"path": f"{base}/rollouts/samples-*.parquet"}}
    judged = {
        "reward_model": {"path": f"{base}/stages/reward_model"},
        "reasoning_gym": {"after": "=", "weight": 0.0},
    }
    own = {name: stage | {"model": f"{base}/stages/sft", "data": data[name]} for name, stage in STAGES.items()}
    return {
        "name": "rlhf_study",
        "seed": seed,
        "rewards": judged,
        "rollout": {"engine": "transformers", "max_prompt_tokens": 8, "max_completion_tokens": 8},
        "training": {"steps": STEPS, "threads": 1},
        "evaluation": {"every": EVERY, "samples": 1, "limit": 200},
        "stages": own,
    }


def main() -> None:
    """Make the runs that are not done, then the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="the run folder of recipes/preference/rlhf.yaml")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma-separated")
    parser.add_argument("--folder", type=Path, default=Path("runs/rlhf_study"), help="where the runs are")
    parser.add_argument("--write", type=Path, help="the page, such as docs/rlhf_study.md; the figure stands beside it")
    given = parser.parse_args()
    base = given.base.resolve()
    questions = yaml.safe_load((base / "recipe.yaml").read_text(encoding="utf-8"))["stages"]["rl"]["data"]
    runs = []
    # functions that the base's recipe names stand beside it
    beside = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    for seed in given.seeds.split(","):
        run = given.folder / f"seed_{seed}"
        runs.append(str(run))
        file = given.folder / f"seed_{seed}.yaml"
        given.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(recipe(base, questions, int(seed)), sort_keys=False), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-P", "-m", "llmrl.cli", "train", str(file), f"run_dir={run}", "--resume"],
            check=True,
            env=beside,
        )
    page = ["--write", str(given.write)] if given.write else []
    subprocess.run(
        [sys.executable, "-P", "-m", "llmrl.cli", "overoptimization", str(base), *runs, *page], check=True, env=beside
    )


if __name__ == "__main__":
    main()
