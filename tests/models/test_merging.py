"""Sums of models: worked out by hand with constant weights, against peft's exact combination, and their faults."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from reward_model import make_reward_model
from safetensors.torch import load_file, save_file
from test_loading import CHARACTERS, TINY, build
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llmrl.errors import RecipeError
from llmrl.models.loading import load_tokenizer
from llmrl.models.origins import materialize, outline
from llmrl.models.weights import base_parameters, merged_weights
from llmrl.recipe import Merge, Model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Five models of one shape; `one`, `two` and `three` have all weights equal to a number."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: build(folder / name, seed) for seed, name in enumerate(("base", "other", "one", "two", "three"))}
    for name, value in (("one", 1.0), ("two", 1.5), ("three", 0.75)):
        tensors = {key: torch.full_like(weight, value) for key, weight in load_file(found[name] / WEIGHTS).items()}
        save_file(tensors, found[name] / WEIGHTS, metadata={"format": "pt"})
    return found


def merge(base: Path, folder: Path, **vectors: dict[str, Any]) -> Path:
    parts = {
        name: {key: str(v) if isinstance(v, Path) else v for key, v in one.items()} for name, one in vectors.items()
    }
    return materialize(Model(merge=Merge.model_validate({"base": str(base), "vectors": parts})), folder / "origin", 0)


def fault(base: Path, **vectors: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        merge(base, Path("unused"), **vectors)
    return str(caught.value)


def test_a_sum_by_hand(models, tmp_path):
    # 1 + 2 (1.5 - 0.75) - 1 (1.5 - 1) = 2
    vectors = {"up": {"plus": models["two"], "minus": models["three"], "weight": 2.0}}
    vectors["down"] = {"plus": models["two"], "weight": -1.0}
    folder = merge(models["one"], tmp_path, **vectors)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(weight, torch.full_like(weight, 2.0)) for weight in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert load_tokenizer(folder).encode("1+1=") == load_tokenizer(models["one"]).encode("1+1=")
    # the embeddings count once though they are tied: |up| = 0.75 sqrt(n), |down| = 0.5 sqrt(n), both along (1, 1, ..)
    note, n = json.loads((folder / "merge.json").read_text()), sum(weight.numel() for weight in model.parameters())
    assert note["norms"] == pytest.approx({"up": 0.75 * math.sqrt(n), "down": 0.5 * math.sqrt(n)})
    assert note["cosines"] == pytest.approx({"up, down": 1.0})


def test_sums_are_rounded_once(models, tmp_path):
    base, other, one = (load_file(models[name] / WEIGHTS) for name in ("base", "other", "one"))
    vectors = {"a": {"plus": models["other"], "weight": 0.3}, "b": {"plus": models["one"], "minus": models["other"]}}
    found = load_file(merge(models["base"], tmp_path, **vectors) / WEIGHTS)
    assert found.keys() == base.keys()
    for name, weight in found.items():
        b, o, i = (tensors[name].double() for tensors in (base, other, one))
        assert torch.equal(weight, (b + 0.3 * (o - b) + (i - o)).float())


def test_balanced_actor_initialisation_is_one_sum(models, tmp_path):
    # m1 = a instruct + (1 - a) distilled; m2 = b m1 + (1 - b) pretrained, with a = 0.7, b = 0.5
    instruct, distilled, pretrained = (load_file(models[name] / WEIGHTS) for name in ("other", "two", "base"))
    vectors = {
        "instruct": {"plus": models["other"], "weight": 0.35},
        "distilled": {"plus": models["two"], "weight": 0.15},
    }
    found = load_file(merge(models["base"], tmp_path, **vectors) / WEIGHTS)
    for name, weight in found.items():
        first = 0.7 * instruct[name].double() + 0.3 * distilled[name].double()
        torch.testing.assert_close(weight, (0.5 * first + 0.5 * pretrained[name].double()).float(), rtol=1e-6, atol=0)


def test_made_once_and_each_sum_in_a_folder_of_its_own(models, tmp_path):
    first = merge(models["one"], tmp_path, a={"plus": models["two"]})
    written = (first / WEIGHTS).stat().st_mtime_ns
    assert merge(models["one"], tmp_path, a={"plus": models["two"]}) == first
    assert (first / WEIGHTS).stat().st_mtime_ns == written
    assert merge(models["one"], tmp_path, a={"plus": models["two"], "weight": 0.5}) != first


def adapter(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    """A LoRA adapter of rank 4 on `base`, in peft's own files, both factors far from 0."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **settings),
    )
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def adapters(models, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [adapter(models["base"], folder / str(seed), seed) for seed in (1, 2)]


class TestAdapters:
    @pytest.mark.parametrize("weights", [(1.0, -1.0), (0.7, 0.3), (1.0, 1.0)])
    def test_the_sum_is_exact_where_adding_up_factors_is_not(self, models, adapters, weights, tmp_path):
        both = {name: {"plus": path, "weight": w} for name, path, w in zip("ab", adapters, weights, strict=True)}
        found = load_file(merge(models["base"], tmp_path, **both) / WEIGHTS)
        base = load_file(models["base"] / WEIGHTS)
        name = "model.layers.1.mlp.up_proj.weight"
        change = found[name] - base[name]
        for kind, least, most in (("cat", 0.0, 1e-6), ("linear", 0.5, 2.0)):
            model: Any = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(models["base"]), adapters[0], "a"
            )
            model.load_adapter(str(adapters[1]), "b")
            model.add_weighted_adapter(["a", "b"], [*weights], "sum", combination_type=kind)
            model.set_adapter("sum")
            error = (dict(merged_weights(model))[name] - base[name] - change).norm() / change.norm()
            assert least <= error <= most, kind

    def test_the_difference_of_adapters_leaves_their_base_out(self, models, adapters, tmp_path):
        # on another base than their own, and with a part that fp32 would round away beside weights of 1
        tiny = copy_with_factor(adapters[0], tmp_path / "tiny", 1e-6)
        found = load_file(
            merge(models["one"], tmp_path, a={"plus": tiny, "minus": adapters[0], "weight": -1.0}) / WEIGHTS
        )
        whole = load_file(merge(models["base"], tmp_path, a={"plus": adapters[0]}) / WEIGHTS)
        name, base = "model.layers.0.self_attn.q_proj.weight", load_file(models["base"] / WEIGHTS)
        expected = 1.0 + (1 - 1e-6) * (whole[name] - base[name])
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)

    def test_an_adapter_as_the_base(self, models, adapters, tmp_path):
        found = load_file(merge(adapters[0], tmp_path, a={"plus": models["base"], "weight": 1.0}) / WEIGHTS)
        base = load_file(models["base"] / WEIGHTS)
        assert all(torch.equal(weight, base[name]) for name, weight in found.items())

    def test_what_is_more_than_products_is_refused(self, models, tmp_path):
        folder = adapter(models["base"], tmp_path / "dora", 3, use_dora=True)
        assert fault(models["base"], a={"plus": folder}) == (
            f"model.merge.vectors.a.plus: '{folder}' is an adapter of type LORA with use_dora; expected LoRA alone, or "
            f"a merged model"
        )

    def test_a_lost_factor_is_named(self, models, adapters, tmp_path):
        folder = copy_with_factor(adapters[0], tmp_path / "cut", 1.0)
        tensors = load_file(folder / "adapter_model.safetensors")
        lost = sorted(tensors)[0]
        save_file(
            {name: tensor for name, tensor in tensors.items() if name != lost}, folder / "adapter_model.safetensors"
        )
        assert fault(models["base"], a={"plus": folder}) == (
            f"model.merge.vectors.a.plus: the adapter '{folder}' does not fit its base: only one of them has {lost}"
        )


def copy_with_factor(source: Path, folder: Path, factor: float) -> Path:
    """The adapter with its B times a factor."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    tensors = load_file(source / "adapter_model.safetensors")
    scaled = {name: tensor * factor if ".lora_B." in name else tensor for name, tensor in tensors.items()}
    save_file(scaled, folder / "adapter_model.safetensors")
    return folder


def test_reward_models_are_averaged(tmp_path):
    folders = [make_reward_model(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    folder = merge(folders[0], tmp_path, mean={"plus": folders[1], "weight": 0.5})
    found, *parts = (AutoModelForSequenceClassification.from_pretrained(one).score.weight for one in (folder, *folders))
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 2)


def test_parameters_alone_are_summed(models):
    model = AutoModelForCausalLM.from_pretrained(models["base"])
    assert len(base_parameters(model)) == len(load_file(models["base"] / WEIGHTS))


class TestFaults:
    def test_another_shape(self, models, tmp_path):
        other = build(tmp_path / "wide", intermediate_size=64)
        assert fault(models["base"], a={"plus": models["one"], "minus": other}) == (
            f"model.merge.vectors.a.minus: '{other}' is of another shape than the base '{models['base']}': "
            f"intermediate_size 64, not 48"
        )

    def test_another_tokenizer(self, models, tmp_path):
        spec = {"config": TINY, "characters": CHARACTERS.replace("+", "*")}
        other = materialize(Model.model_validate({"build": spec}), tmp_path / "stars", 0)
        assert fault(models["base"], a={"plus": other}).endswith(
            f"'{other}' has another tokenizer than the base '{models['base']}': they differ in '*', '+'"
        )

    def test_lost_weights(self, models, tmp_path):
        cut = build(tmp_path / "cut")
        tensors = load_file(cut / WEIGHTS)
        del tensors["model.norm.weight"]
        save_file(tensors, cut / WEIGHTS, metadata={"format": "pt"})
        assert fault(models["base"], a={"plus": cut}) == (
            f"model.merge.vectors.a.plus: '{cut}' lacks 1 of its weights, such as model.norm.weight"
        )

    def test_no_folder(self, models):
        near = f"{models['two'].parent}/twoo"
        assert fault(models["base"], a={"plus": near}) == (
            f"model.merge.vectors.a.plus: no folder '{near}'; did you mean '{models['two']}'?"
        )

    def test_the_outline_is_the_base_and_has_the_same_faults(self, models, tmp_path):
        spec = {"base": str(models["base"]), "vectors": {"a": {"plus": str(models["one"])}}}
        assert outline(Model.model_validate({"merge": spec}), tmp_path) == models["base"]
        wrong = copy.deepcopy(spec) | {"base": str(build(tmp_path / "wide", intermediate_size=64))}
        with pytest.raises(RecipeError, match=r"model\.merge\.vectors\.a\.plus: .* is of another shape"):
            outline(Model.model_validate({"merge": wrong}), tmp_path)
