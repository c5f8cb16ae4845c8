"""The study of games: its recipes load, and its table is worked out from curves as by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from llmrl.recipe_file import load_plan

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
from multi_turn_study import ARMS, GAMES, recipe, table


@pytest.mark.parametrize("game", GAMES)
def test_each_game_has_a_stage_for_each_arm_from_the_same_start(game, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(recipe(game, 3, 40), sort_keys=False))
    imitation, *arms = load_plan(file).stages.values()
    assert imitation.data.train.turns == "all" and len(arms) == len(ARMS)
    assert {arm.model.path for arm in arms} == {f"runs/study_{game}_3/stages/imitation"}
    assert {arm.rollout.prompts_per_step * arm.rollout.group_size for arm in arms} == {128}
    assert [arm.critic.context for arm in arms].count("{hidden};") == 1


def test_a_row_has_shares_at_three_places_and_the_turns_to_nearly_the_best():
    better = [[(0.0, 0.2), (100.0, 0.9), (200.0, 1.0)], [(0.0, 0.4), (120.0, 0.5), (240.0, 0.8)]]
    worse = [[(0.0, 0.2), (100.0, 0.3), (200.0, 0.4)]] * 2
    _, _, first, second = table({"maze": {"PPO": better, "GRPO": worse}})
    assert first == "| maze | PPO | 0.30 ± 0.14 | 0.70 ± 0.28 | 0.90 ± 0.14 | 220 | 100 (1 of 2) |"
    assert second == "| maze | GRPO | 0.20 ± 0.00 | 0.30 ± 0.00 | 0.40 ± 0.00 | 200 | never |"
