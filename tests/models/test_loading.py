"""Models on disk, for real: loaded, adapted with LoRA, exported, reloaded by plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llmrl.errors import RecipeError
from llmrl.models.loading import (
    character_tokenizer,
    export,
    load_language_model,
    load_tokenizer,
    stop_token_ids,
)
from llmrl.models.origins import materialize
from llmrl.models.weights import Rounding, merged_weights
from llmrl.recipe import Build, Lora, Model

CHARACTERS = "0123456789+= \né<>"
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def build(folder: Path, seed: int = 0, architecture: str = "qwen3", **config: Any) -> Path:
    spec = Build(architecture=architecture, config={**TINY, **config}, characters=CHARACTERS)
    return materialize(Model(build=spec), folder, seed)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "model")


def logits(model: torch.nn.Module, token_ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([token_ids])).logits[0]


def perturb_lora(model: PeftModel) -> None:
    """B starts at zero, where a merge that does nothing would look right."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))


def test_character_tokenizer_has_one_token_a_character():
    tokenizer = character_tokenizer("ab a")
    # <pad> 0, <eos> 1, <unk> 2, a 3, b 4, ' ' 5 (the second a is the first again)
    assert len(tokenizer) == 6
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.encode(" ab  b") == [5, 3, 4, 5, 5, 4]
    assert tokenizer.encode("azzb") == [3, 2, 2, 4]
    assert tokenizer.encode("a<eos>") == [3, 1]


@given(st.lists(st.sampled_from(range(1, 3 + len(CHARACTERS) - 2)), max_size=20))
def test_encode_of_decode_gives_the_tokens_back(token_ids):
    # without '<' and '>' (the last two), no run of characters can spell a special token
    tokenizer = character_tokenizer(CHARACTERS)
    assert tokenizer.encode(tokenizer.decode(token_ids)) == token_ids


def test_tokenizer_with_a_chat_template_from_a_file(built, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer = load_tokenizer(built, template)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "1+1"}], tokenize=False) == "1+1"
    assert load_tokenizer(built).chat_template is None
    with pytest.raises(RecipeError, match=r"model\.chat_template: no file .*; did you mean '.*chat\.jinja'\?"):
        load_tokenizer(built, tmp_path / "caht.jinja")
    template.write_text("{% for m in messages %}\n{{ m.content }}{% endfr %}")
    with pytest.raises(RecipeError, match=r"model\.chat_template: .*chat\.jinja:2: not valid Jinja: .* 'endfr'"):
        load_tokenizer(built, template)


def test_tokenizer_faults_and_padding(tmp_path):
    with pytest.raises(RecipeError, match="model: cannot load a tokenizer from"):
        load_tokenizer(tmp_path)
    tokenizer = character_tokenizer("ab")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "no_pad")
    assert load_tokenizer(tmp_path / "no_pad").pad_token_id == 1
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "no_eos")
    with pytest.raises(RecipeError, match="has no end-of-sequence token"):
        load_tokenizer(tmp_path / "no_eos")


def test_stop_tokens_are_those_of_tokenizer_and_configs():
    tokenizer = character_tokenizer("ab")
    assert stop_token_ids(tokenizer) == (1,)
    assert stop_token_ids(tokenizer, SimpleNamespace(eos_token_id=[4, 1]), SimpleNamespace(eos_token_id=None)) == (1, 4)
    assert stop_token_ids(tokenizer, SimpleNamespace(eos_token_id=0)) == (0, 1)


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_loaded_for_training(tmp_path, dtype, expected):
    folder = build(tmp_path / "model", attention_dropout=0.5)
    model = load_language_model(folder, dtype)
    assert {weight.dtype for weight in model.parameters()} == {expected}
    assert (model.config.attention_dropout, model.config.use_cache) == (0.0, False)
    assert model.config._attn_implementation == "sdpa"
    model.train()
    assert torch.equal(logits(model, [3, 4, 5]), logits(model, [3, 4, 5]))  # no dropout anywhere


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_the_end_of_turn_token_is_trained_where_it_is_the_padding_too(architecture, tmp_path):
    """A chat's earlier turns end with it, so its embedding is read, and its gradient has to be the right one."""
    folder = build(tmp_path / "model", architecture=architecture, tie_word_embeddings=False)
    gradients = []
    for padding in (0, 1):  # 1 is the end-of-sequence token
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": padding}))
        model = load_language_model(folder)
        model(torch.tensor([[3, 4, 1, 5, 6, 1, 7]])).logits[:, -1].logsumexp(-1).sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    assert gradients[0][1].abs().max() > 1e-4
    assert torch.equal(gradients[1], gradients[0])


def test_the_padding_token_of_a_built_model_has_an_embedding_like_others(built):
    """A model may sample it, and a norm multiplies the gradient of a zero by 1 / sqrt(eps)."""
    model = load_language_model(built)
    model(torch.tensor([[3, 0, 4]])).logits[:, -1].logsumexp(-1).sum().backward()
    weight = model.get_input_embeddings().weight
    sizes, gradients = weight.detach().norm(dim=-1), weight.grad.norm(dim=-1)
    assert 0.5 < sizes[0] / sizes[3:].mean() < 2.0 and gradients[0] < 10 * gradients[[3, 4]].max()


def test_gradient_checkpointing_gives_the_same_gradients(built):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = load_language_model(built, lora=Lora(rank=2), gradient_checkpointing=checkpointing)
        perturb_lora(model)
        model.train()
        assert model.get_base_model().is_gradient_checkpointing is checkpointing
        model(torch.tensor([[3, 4, 5, 6]])).logits.logsumexp(-1).sum().backward()
        gradients.append({name: w.grad for name, w in model.named_parameters() if w.requires_grad})
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_folder_that_is_no_language_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(RecipeError, match=r"model: cannot load '.*' as a language model: "):
        load_language_model(tmp_path)


def test_lora_trains_adapters_alone(built):
    model = load_language_model(built, lora=Lora(rank=2, dropout=0.25))
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    # all-linear: q k v o gate up down of 2 layers, an A and a B each; never the output layer
    assert len(trainable) == 2 * 7 * 2 and all(".lora_" in name for name in trainable)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


@pytest.mark.parametrize("names", ["q_proj", ["q_proj"], r".*\.q_proj"])
def test_lora_adapts_the_named_layers(built, names):
    model = load_language_model(built, lora=Lora(rank=2, target_modules=names))
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trainable) == 2 * 2 and all(".q_proj.lora_" in name for name in trainable)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings")
def test_lora_faults(built):
    misspelt = "model.lora.target_modules: no layer named 'q_porj'; did you mean 'q_proj'?"
    for names in ("q_porj", ["q_porj"], ["q_proj", "q_porj"]):  # one wrong name among right ones is a fault too
        with pytest.raises(RecipeError) as fault:
            load_language_model(built, lora=Lora(target_modules=names))
        assert fault.value.faults == [misspelt], names
    with pytest.raises(RecipeError, match="ties its embeddings"):
        load_language_model(built, lora=Lora(target_modules=["q_proj", "lm_head"]))


def test_lora_is_merged_by_the_formula_and_the_live_model_left_alone(built, tmp_path):
    torch.manual_seed(0)
    model = load_language_model(built, lora=Lora(rank=2, alpha=6.0))
    perturb_lora(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    export(model, load_tokenizer(built), tmp_path / "out")
    merged, original = load_file(tmp_path / "out" / "model.safetensors"), load_file(built / "model.safetensors")
    assert merged.keys() == original.keys()
    layer = model.get_base_model().model.layers[1].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    name = "model.layers.1.mlp.up_proj.weight"
    # W + (alpha / rank) B A with alpha / rank = 6 / 2 = 3
    torch.testing.assert_close(merged[name], original[name] + 3.0 * b.detach() @ a.detach())
    assert torch.equal(merged["model.embed_tokens.weight"], original["model.embed_tokens.weight"])
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


def test_lora_export_notes_what_bf16_would_leave(built, tmp_path):
    model = load_language_model(built, lora=Lora(rank=2))
    rounding = Rounding(torch.bfloat16)
    export(model, load_tokenizer(built), tmp_path / "new", merged_weights(model, rounding=rounding), None, rounding)
    assert not (tmp_path / "new" / "adapter" / "rounding.json").exists()  # an adapter that changes nothing
    perturb_lora(model)
    export(model, load_tokenizer(built), tmp_path / "out", merged_weights(model, rounding=rounding), None, rounding)
    note = json.loads((tmp_path / "out" / "adapter" / "rounding.json").read_text())
    base, merged = load_file(built / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    change = torch.cat([(merged[name] - base[name]).flatten() for name in base])
    left = torch.cat([(merged[name].bfloat16().float() - base[name].bfloat16().float()).flatten() for name in base])
    assert note["dtype"] == "bfloat16"
    assert note["kept"] == pytest.approx(float((left @ change) / (change @ change)), abs=1e-4)
    assert note["error"] == pytest.approx(float((left - change).norm() / change.norm()), abs=1e-4)


def test_adapters_of_experts_have_no_dropout(tmp_path):
    config = {"num_local_experts": 2, "num_experts_per_tok": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    spec = Build(architecture="mixtral", config=config | {"hidden_size": 16, "num_hidden_layers": 1}, characters="ab")
    folder = materialize(Model(build=spec), tmp_path, 0)
    with pytest.raises(RecipeError, match=r"^model.lora.dropout: 0.1, but adapters of experts have none"):
        load_language_model(folder, lora=Lora(rank=2, dropout=0.1))


def test_export_of_weights_that_were_gathered_elsewhere(built, tmp_path):
    model, tokenizer = load_language_model(built), load_tokenizer(built)
    doubled = [(name, 2 * weight.detach()) for name, weight in model.named_parameters()]
    export(model, tokenizer, tmp_path / "out", doubled)
    original = load_file(built / "model.safetensors")
    for name, weight in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(weight, 2 * original[name])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_lora_export_is_a_plain_model_that_answers_as_the_adapted_one(tmp_path, monkeypatch, tied, dtype):
    base = build(tmp_path / "base", tie_word_embeddings=tied)
    monkeypatch.chdir(tmp_path)
    model = load_language_model("base", dtype, Lora(rank=2))
    perturb_lora(model)
    expected = logits(model, [3, 4, 5])
    assert (expected - logits(load_language_model(base, dtype), [3, 4, 5])).abs().max() > 0.1
    export(model, load_tokenizer(base), tmp_path / "out")
    assert torch.equal(logits(model, [3, 4, 5]), expected)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) is tied
    assert {weight.dtype for weight in plain.parameters()} == {torch.float32}
    # bf16 has 8 bits, in which the adapted model adds up its activations
    tolerance = 1e-5 if dtype == "fp32" else 0.05
    torch.testing.assert_close(logits(plain, [3, 4, 5]).float(), expected.float(), rtol=tolerance, atol=tolerance)
    adapter = str(tmp_path / "out" / "adapter")
    monkeypatch.chdir("/")  # from where the adapter's base is still found
    named = load_language_model(PeftConfig.from_pretrained(adapter).base_model_name_or_path, dtype)
    again = PeftModel.from_pretrained(named, adapter, autocast_adapter_dtype=False)
    torch.testing.assert_close(logits(again, [3, 4, 5]), expected)
    assert load_tokenizer(tmp_path / "out").encode("1+1") == load_tokenizer(base).encode("1+1")


def test_full_export_round_trip(built, tmp_path):
    model = load_language_model(built)
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(1.0)
    export(model, load_tokenizer(built), tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(plain, [3, 4]), logits(model, [3, 4]))
    assert (plain.config.use_cache, model.config.use_cache) == (True, False)
    assert plain.config.architectures == ["Qwen3ForCausalLM"]  # else vLLM takes the folder for an embedding model
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_attention_scores_that_are_capped_stay_capped(tmp_path):
    # sdpa would leave the cap out: logits would differ from what the architecture, and vLLM, compute
    folder = build(tmp_path / "gemma2", architecture="gemma2", attn_logit_softcapping=0.01, initializer_range=1.0)
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    leaves_out = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    loaded = load_language_model(folder).eval()
    token_ids = [3, 4, 5, 6, 7]
    assert not torch.allclose(logits(eager, token_ids), logits(leaves_out, token_ids), atol=1e-3)
    torch.testing.assert_close(logits(loaded, token_ids), logits(eager, token_ids))
