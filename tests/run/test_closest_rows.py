"""The rows closest to a policy: the choice by hand, and closeness against the model's own probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError
from llmrl.models.loading import load_tokenizer
from llmrl.models.origins import materialize
from llmrl.recipe import Model, Recipe
from llmrl.run.closest_rows import closest, keep_closest
from llmrl.run.models import Origin
from llmrl.run.sampling import load_stage_prompts

PAIRS = [("1+1=", "2", "37"), ("2+2=", "4", "5"), ("3+4=", "7", "777"), ("9+9=", "18", "9")]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 32}


def test_the_choice_by_hand():
    closeness = [-3.0, -1.0, -2.0, -1.0, -5.0, -4.0, -9.0, -8.0]
    assert closest(closeness, share=0.25) == [1, 3]
    assert closest(closeness, share=0.3) == [1, 2, 3]  # 2.4 rows are 3
    kept = closest(closeness, share=0.5, replay=0.5, seed=3)
    assert kept == sorted(kept) and {0, 1, 2, 3} < set(kept) and len(kept) == 6
    assert kept == closest(closeness, share=0.5, replay=0.5, seed=3)
    assert closest(closeness, share=1.0, replay=2.0) == list(range(8))


@pytest.fixture
def stage(tmp_path) -> tuple[Recipe, Origin, Path]:
    build = {"characters": "0123456789+=", "config": SIZES | {"num_key_value_heads": 1, "initializer_range": 0.4}}
    folder = materialize(Model.model_validate({"build": build}), tmp_path / "policy", 1)
    rows = [{"question": q, "good": good, "bad": bad} for q, good, bad in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train: dict[str, Any] = {"path": str(tmp_path / "pairs.jsonl"), "chosen": "good", "rejected": "bad"}
    train["closest"] = {"model": str(folder), "share": 0.5, "replay": 0.0}
    recipe = Recipe.model_validate(
        {"name": "n", "run_dir": "r", "model": str(folder), "data": {"train": train}, "learn_from": "preferences"}
        | {"preference_loss": {"bradley_terry": {"weight": 1.0}}}
    )
    return recipe, Origin(folder, load_tokenizer(folder), (1,)), folder


def test_closeness_is_the_mean_log_likelihood_a_token_of_both_completions(stage):
    recipe, origin, folder = stage
    model, found = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False), []
    for question, *completions in PAIRS:
        means = []
        for completion in completions:
            prompt = origin.tokenizer.encode(question)
            ids = [*prompt, *origin.tokenizer.encode(completion), 1]
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            steps = [float(logprobs[place - 1, ids[place]]) for place in range(len(prompt), len(ids))]
            means.append(sum(steps) / len(steps))
        found.append(sum(means) / 2)
    best = sorted(sorted(range(4), key=lambda row: -found[row])[:2])
    prompts, told = keep_closest(load_stage_prompts(recipe, origin), recipe, origin, Ranks(), torch.device("cpu"))
    assert [prompt.text for prompt in prompts.train] == [PAIRS[row][0] for row in best]
    kept, of_all = (sum(values) / len(values) for values in ([found[row] for row in best], found))
    assert told == (
        f"2 of 4 rows are kept, the closest to {folder}: {kept:.3f} nats a token, against {of_all:.3f} of all"
    )


def test_faults(stage, tmp_path):
    recipe, origin, _ = stage
    build = {"characters": "0123456789*=", "config": SIZES | {"num_key_value_heads": 1}}
    other = materialize(Model.model_validate({"build": build}), tmp_path / "other", 1)
    for model, fault in ((other, "has other tokens than the model of this stage"), (tmp_path / "polici", "no folder")):
        settings = recipe.data.train.closest.model_copy(update={"model": str(model)})
        data = recipe.data.model_copy(update={"train": recipe.data.train.model_copy(update={"closest": settings})})
        wrong = recipe.model_copy(update={"data": data})
        with pytest.raises(RecipeError, match=f"data.train.closest.model: .*{fault}"):
            keep_closest(load_stage_prompts(recipe, origin), wrong, origin, Ranks(), torch.device("cpu"))
