"""Success against environment turns: ArCHer, turn-level PPO, trajectory GRPO and filtered BC on three games.

    python scripts/multi_turn_study.py --write docs/multi_turn_study.md

All arms of a game and a seed start from the same model, which imitated a fair player, sample the same number of
episodes in a step and answer the same held-out games. Turn-level PPO is there twice: with a critic that reads what the
policy reads, and with one that reads what the game hides as well. A run that is finished is not done again; an
interrupted one goes on. --quick makes two steps of each arm, to see that all of them run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from llmrl.run_folder.reader import RunReader

ROOT = Path(__file__).resolve().parent.parent
EPISODES, STEPS, EVERY, IMITATED = 128, 40, 5, 150
"""Of a step; of an arm; steps between evaluations; steps of imitation before."""
GAMES: dict[str, dict[str, Any]] = {
    "guess_number": {"env": {"high": 15, "most_guesses": 4}, "turn": 3, "lost": -4, "tokens": 18},
    "twenty_questions": {"env": {"things": 8, "most_questions": 4}, "turn": 9, "lost": -4, "tokens": 44},
    "maze": {
        "env": {"size": 3, "layout": 1, "partly": True, "most_steps": 12},
        "turn": 2,
        "lost": -12,
        "tokens": 84,
    },
}
"""Settings of each game, the most tokens of a turn, the reward of an invalid action, which is that of a lost game, and
the tokens of an episode."""
WHOLE = {"prompts_per_step": EPISODES, "group_size": 1}
PPO: dict[str, Any] = {
    "method": "ppo",
    "token_rewards": {"kl_k1": None},
    "advantage": {"step_gae": {"gamma": 1.0, "lam": 0.95}},
    "critic": {"learning_rate": 1.0e-3},
    "rollout": WHOLE,
}
ARMS: dict[str, dict[str, Any]] = {
    "turn PPO": PPO,
    "turn PPO, privileged critic": PPO | {"critic": {"learning_rate": 1.0e-3, "context": "{hidden};"}},
    "ArCHer": {
        "method": "archer",
        "critic": {"learning_rate": 1.0e-3, "warmup_steps": 5, "updates_per_step": 10},
        "rollout": WHOLE,
    },
    "GRPO": {
        "method": "grpo",
        "regularizers": {"kl_k3": None},
        "rollout": {"prompts_per_step": EPISODES // 8, "group_size": 8},
    },
    "filtered BC": {"method": "filtered_bc", "rollout": WHOLE},
}
"""What each arm changes; the policy's learning rate is the same for all."""


def recipe(game: str, seed: int, steps: int) -> dict[str, Any]:
    """The recipe of one game and seed: imitation, then a stage for each arm from the same start."""
    own = GAMES[game]
    env = {game: {**own["env"], "brief": True}}
    seeds = {"task": "seeds", "settings": {"question": ":"}, "chat": True}
    demonstrations = {
        "task": "llmrl.tasks.games:demonstrations",
        "settings": {"game": env, "player": "novice", "question": ":"},
        "size": 8000,
        "seed": 1_000_000 * (seed + 1),
        "chat": True,
        **dict.fromkeys(("prompt", "completion"), "messages"),
        "turns": "all",
    }
    shape = {
        "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32, "initializer_range": 0.05, "tie_word_embeddings": True,
        "max_position_embeddings": 128,
    }  # fmt: skip
    characters = "abcdefghijklmnopqrstuvwxyz0123456789+-:;?!.\n"
    held_out = {"eval": {**seeds, "size": 200, "seed": 2}}
    arms = {
        _stage(name): {**arm, "model": "${run_dir}/stages/imitation", "data": {"train": seeds | {"size": 20_000}}}
        for name, arm in ARMS.items()
    }
    imitation = {
        "method": "sft",
        "data": {"train": demonstrations},
        "rollout": {"prompts_per_step": 64, "group_size": 1},
        "training": {
            "steps": IMITATED if steps == STEPS else steps,
            "learning_rate": 3.0e-3,
            "schedule": "cosine",
            "warmup_steps": 1,
        },
    }
    model = {"build": {"architecture": "qwen3", "config": shape, "characters": characters}}
    return {
        "name": f"study_{game}_{seed}",
        "seed": seed,
        "model": {"chat_template": str(ROOT / "recipes" / "multi_turn" / "plain.jinja")},
        "data": held_out,
        "env": env,
        "turns": {"max_tokens": own["turn"], "invalid": {"tell": "!", "reward": own["lost"], "most_in_a_row": 1}},
        "rollout": {"engine": "transformers", "max_prompt_tokens": 16, "max_completion_tokens": own["tokens"]},
        "training": {"steps": steps, "learning_rate": 5.0e-4, "threads": 1},
        "evaluation": {"every": EVERY},
        "stages": {"imitation": imitation | {"model": model}, **arms},
    }


def _stage(arm: str) -> str:
    return arm.lower().replace(",", "").replace(" ", "_")


def curve(run: Path, arm: str) -> list[tuple[float, float]]:
    """(environment turns so far, share of held-out games solved) of an arm, at each evaluation."""
    turns, found = 0.0, []
    for row in RunReader(run).metrics:
        if row["stage"] == _stage(arm):
            turns += row.get("turns", 0.0) * EPISODES
            if "eval/accuracy" in row:
                found.append((turns, row["eval/accuracy"]))
    return found


def table(curves: dict[str, dict[str, list[list[tuple[float, float]]]]]) -> list[str]:
    """A row for each game and arm, over the seeds: success at first, in the middle and at last, and the turns to it."""
    lines = [
        "| game | arm | start | half way | end | turns | turns to 90 % of the best end |",
        "|---|---|---|---|---|---|---|",
    ]
    for game, arms in curves.items():
        best = max(statistics.mean(one[-1][1] for one in runs) for runs in arms.values())
        for arm, runs in arms.items():
            middle = len(runs[0]) // 2
            shares = [_spread([one[place][1] for one in runs]) for place in (0, middle, -1)]
            reached = [next((turns for turns, share in one if share >= 0.9 * best), None) for one in runs]
            known = sorted(one for one in reached if one is not None)
            to_best = f"{statistics.median(known):,.0f} ({len(known)} of {len(runs)})" if known else "never"
            turns = f"{statistics.mean(one[-1][0] for one in runs):,.0f}"
            lines.append("| " + " | ".join([game, arm, *shares, turns, to_best]) + " |")
    return lines


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def figure(curves: dict[str, dict[str, list[list[tuple[float, float]]]]], file: Path) -> None:
    """Success against turns: a panel for each game, a line for each arm with the range of its seeds."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "llmrl"
    shown, panels = pyplot.subplots(1, len(curves), figsize=(5 * len(curves), 4), sharey=True, squeeze=False)
    for panel, (game, arms) in zip(panels[0], curves.items(), strict=True):
        for arm, runs in arms.items():
            steps = list(zip(*runs, strict=False))  # the same evaluation of each seed
            turns = [statistics.mean(turn for turn, _ in step) for step in steps]
            shares = [[share for _, share in step] for step in steps]
            [line] = panel.plot(turns, [statistics.mean(step) for step in shares], label=arm)
            panel.fill_between(turns, [*map(min, shares)], [*map(max, shares)], color=line.get_color(), alpha=0.12)
        panel.set(title=game, xlabel="environment turns")
    panels[0][0].set_ylabel("held-out games solved")
    panels[0][0].legend()
    shown.tight_layout()
    shown.savefig(file, metadata={"Date": None})


def main() -> None:
    """Make the runs that are not done, then the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", default=",".join(GAMES), help="comma-separated")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma-separated")
    parser.add_argument("--quick", action="store_true", help="two steps of each arm")
    parser.add_argument("--folder", type=Path, default=Path("runs/multi_turn_study"), help="where the runs are")
    parser.add_argument("--write", type=Path, help="the page; the figure stands beside it")
    given = parser.parse_args()
    seeds, curves = [int(seed) for seed in given.seeds.split(",")], {}
    for game in given.games.split(","):
        runs = [_run(game, seed, given.folder, 2 if given.quick else STEPS) for seed in seeds]
        curves[game] = {arm: [curve(run, arm) for run in runs] for arm in ARMS}
    lines = table(curves)
    print("\n".join(lines))
    if given.write:
        picture = given.write.with_suffix(".svg")
        figure(curves, picture)
        about = (
            f"Written by `python scripts/multi_turn_study.py --write {given.write}`: seeds {given.seeds}, {EPISODES} "
            f"episodes a step, {STEPS} steps, greedy answers on 200 held-out games; means and standard deviations over "
            f"the seeds."
        )
        drawn = f"![held-out games solved against environment turns]({picture.name})"
        page = ["# Multi-turn study: success against environment turns", "", about, "", drawn, "", *lines, ""]
        given.write.write_text("\n".join(page), encoding="utf-8")


def _run(game: str, seed: int, folder: Path, steps: int) -> Path:
    """The run of a game and a seed, which goes on where it was interrupted."""
    run, file = folder / f"{game}_{seed}", folder / f"{game}_{seed}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe(game, seed, steps), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "llmrl.cli", "train", str(file), f"run_dir={run}", "--resume"]
    subprocess.run(command, check=True, env=os.environ)
    return run


if __name__ == "__main__":
    main()
