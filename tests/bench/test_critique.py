"""The work of a critique step and of the plain step that it is measured against."""

from __future__ import annotations

import json

from llmrl.bench.critique import critiqued, plain, sampled_tokens
from llmrl.bench.work import CASES
from llmrl.recipe_file import load_plan
from llmrl.recipe_moves import most_texts


def test_both_steps_sample_as_many_completions(tmp_path):
    case, stages = CASES["long"], {}
    for name, made in (("critique", critiqued), ("plain", plain)):
        (tmp_path / f"{name}.json").write_text(json.dumps(made(case, tmp_path)))
        [stages[name]] = load_plan(tmp_path / f"{name}.json").stages.values()
    critique = stages["critique"]
    texts = most_texts(critique.moves, critique.rollout.group_size)
    assert texts == {"draft": 1, "critique": 4, "refinement": 4}
    assert (texts["critique"] + texts["refinement"]) * critique.rollout.prompts_per_step == 64
    assert stages["plain"].trajectories_per_step == 64
    assert [view.trained for view in critique.by_role.values()] == [False, True]
    assert critique.moves["draft"].column == "draft"


def test_drafts_of_the_rows_are_not_counted():
    rows = [{"move": move, "turns": [{"token_ids": [3] * count}]} for move, count in (("draft", 9), ("critique", 2))]
    rows += [{"move": "", "turns": [{"token_ids": [3]}, {"token_ids": [3, 4, 5]}]}]
    assert sampled_tokens(rows) == 2 + 4
