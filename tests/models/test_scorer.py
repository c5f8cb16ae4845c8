"""A reward model's scores, its loading, and what it is saved as."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from training_cases import LAYOUTS, fixed_batch, tiny_lm
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer, export, load_language_model
from llmrl.models.scorer import Scorer, load_reward_model, scoring_tokenizer
from llmrl.models.weights import adapter_weights
from llmrl.recipe import Lora

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789+="  # 41 tokens with the three special ones
CHAT = (
    "{% for m in messages %}{{ m['role'][0] + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a' }}{% endif %}"
)


def tokenizer_of(*, pad: str = "<eos>") -> Any:
    tokenizer = character_tokenizer(CHARACTERS + "\n")
    tokenizer.pad_token = pad
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A language model whose padding token is its end-of-sequence token."""
    target = tmp_path_factory.mktemp("model")
    lm = tiny_lm()
    lm.resize_token_embeddings(42, mean_resizing=False)
    lm.config.pad_token_id = lm.config.eos_token_id = 1
    export(lm, tokenizer_of(), target)
    return target


def reward_model(folder: Path, **settings: Any) -> Any:
    return load_reward_model(folder, scoring_tokenizer(tokenizer_of(), [1]), **settings)


def test_a_score_is_the_heads_output_at_the_token_itself(folder):
    lm, batch = reward_model(folder, heads=2), fixed_batch()
    for padding_free in (True, False):
        scorer = Scorer(lm, padding_free=padding_free).eval()
        scores = scorer(batch.token_ids, batch.attention_mask, batch.response_mask, wanted=frozenset({"scores"}))
        for row, layout in enumerate(LAYOUTS):
            hidden = lm.model(input_ids=batch.token_ids[row : row + 1, : len(layout)]).last_hidden_state[0]
            expected = hidden @ lm.score.weight.T
            for t, author in enumerate(layout):
                wanted = expected[t] if author == "A" else torch.zeros(2)
                assert torch.allclose(scores["scores"][row, t], wanted, atol=1e-5)


def test_a_new_head_is_drawn_by_the_seed_and_a_saved_one_is_kept(folder, tmp_path):
    first, again, other = (reward_model(folder, seed=seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.detach().std().item() == pytest.approx(33**-0.5, rel=0.4)
    export(reward_model(folder, seed=1), scoring_tokenizer(tokenizer_of(), [1]), tmp_path / "saved")
    assert torch.equal(reward_model(tmp_path / "saved", seed=2).score.weight, first)
    with pytest.raises(RecipeError, match=r"^model.heads: 3, but the reward model in .* has 1$"):
        reward_model(tmp_path / "saved", heads=3)
    with pytest.raises(RecipeError, match="it is a reward model, without an LM head"):
        load_language_model(tmp_path / "saved")


def test_padding_never_ends_a_text(folder):
    tokenizer = scoring_tokenizer(tokenizer_of(), [1])
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 0)
    lacking = character_tokenizer("ab")
    lacking.pad_token = "<eos>"
    assert scoring_tokenizer(lacking, [1, 0]).pad_token_id == len(lacking) - 1 == 5
    lm = load_reward_model(folder, tokenizer_with_new_padding())
    assert lm.config.pad_token_id == 42 and lm.get_input_embeddings().num_embeddings == 43


def tokenizer_with_new_padding() -> Any:
    return scoring_tokenizer(tokenizer_of(), [1, 0])


def test_a_conversation_ends_at_its_end_of_turn():
    tokenizer = tokenizer_of()
    tokenizer.chat_template = CHAT
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    tokenizer = scoring_tokenizer(scoring_tokenizer(tokenizer, [1]), [1])
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "u1+1<eos>\na2<eos>"
    assert tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True) == asked
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }};{% endfor %}\n"
    assert scoring_tokenizer(tokenizer, [1]).apply_chat_template(messages, tokenize=False) == "1+1;2;<eos>"


def test_transformers_gives_the_saved_model_the_same_scores(folder, tmp_path):
    lm, tokenizer = reward_model(folder), scoring_tokenizer(tokenizer_of(), [1])
    export(lm, tokenizer, tmp_path / "saved")
    theirs = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "saved")).eval()
    texts = ["1+1=2<eos>", "12+30=42<eos>", "a<eos>"]
    ours = [float(scores_of(lm, tokenizer.encode(text))) for text in texts]
    for side in ("left", "right"):
        given = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
        found = theirs(input_ids=given.input_ids, attention_mask=given.attention_mask).logits[:, 0]
        assert torch.allclose(found, torch.tensor(ours), atol=1e-4)
    assert float(torch.tensor(ours).std()) > 1e-2


def scores_of(lm: Any, token_ids: list[int]) -> torch.Tensor:
    """Our score of one text."""
    ids = torch.tensor([token_ids])
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, -1] = True
    return Scorer(lm).eval()(ids, ids >= 0, mask)["scores"][0, -1, 0].detach()


def test_an_adapter_brings_its_head(folder, tmp_path):
    lm = reward_model(folder, lora=Lora(rank=2), seed=5)
    trained = {name for name, parameter in lm.named_parameters() if parameter.requires_grad}
    assert "base_model.model.score.weight" in trained and not any("score.lora" in name for name in trained)
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    assert "base_model.model.score.weight" in dict(adapter_weights(lm))
    tokenizer = scoring_tokenizer(tokenizer_of(), [1])
    export(lm, tokenizer, tmp_path / "saved")
    ours = scores_of(lm, tokenizer.encode("3+4=7<eos>"))
    assert torch.allclose(scores_of(reward_model(tmp_path / "saved"), tokenizer.encode("3+4=7<eos>")), ours, atol=1e-4)
    base = AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=1, pad_token_id=0)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "saved" / "adapter")).eval()
    found = adapted(input_ids=torch.tensor([tokenizer.encode("3+4=7<eos>")])).logits[0, 0]
    assert torch.allclose(found, ours, atol=1e-4)


def test_transformers_gives_a_saved_token_classifier_the_same_scores(folder, tmp_path):
    lm, tokenizer = reward_model(folder, of_tokens=True, seed=3), scoring_tokenizer(tokenizer_of(), [1])
    export(lm, tokenizer, tmp_path / "saved")
    theirs = AutoModelForTokenClassification.from_pretrained(str(tmp_path / "saved")).eval()
    texts = ["1+1=2\n2+2=4\n", "12+30=42\n"]
    given = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    found = theirs(input_ids=given.input_ids, attention_mask=given.attention_mask).logits[..., 0]
    ours = Scorer(lm).eval()(given.input_ids, given.attention_mask.bool(), given.attention_mask.bool())["scores"]
    there = given.attention_mask.bool()
    there[:, 0] = False  # where no completion can be
    assert torch.allclose(found[there], ours[..., 0][there], atol=1e-4) and float(found[there].std()) > 1e-2
    again = reward_model(tmp_path / "saved", of_tokens=True, seed=9)
    assert torch.equal(again.score.weight, lm.score.weight) and again.score.bias is None
    with pytest.raises(RecipeError, match=r"scores steps, and the losses read scores of whole completions$"):
        reward_model(tmp_path / "saved")


VLLM = """
import json, sys
from vllm import LLM
rows = [{"prompt_token_ids": row} for row in json.loads(sys.argv[3])]
setting = dict(runner="pooling", dtype="float32", max_model_len=64, enforce_eager=True, seed=0,
               gpu_memory_utilization=0.05)
found = LLM(sys.argv[1], **setting).classify(rows)
print("SCORES", json.dumps([one.outputs.probs[0] for one in found]))
found = LLM(sys.argv[2], **setting).encode(rows, pooling_task="token_classify")
print("STEPS", json.dumps([one.outputs.data[:, 0].tolist() for one in found]))
"""


def test_vllm_gives_the_saved_models_the_same_scores(tmp_path):
    tokenizer = scoring_tokenizer(tokenizer_of(), [1])
    settings = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    config = tiny_lm().config.to_dict() | settings | {"vocab_size": 42, "pad_token_id": 1, "eos_token_id": 1}
    export(Qwen3ForCausalLM(Qwen3Config(**config)), tokenizer_of(), tmp_path / "start")
    lm, of_tokens = reward_model(tmp_path / "start"), reward_model(tmp_path / "start", of_tokens=True, seed=3)
    export(lm, tokenizer, tmp_path / "saved")
    export(of_tokens, tokenizer, tmp_path / "steps")
    rows = [tokenizer.encode(text) for text in ("1+1=2<eos>", "12+30=42<eos>", "a<eos>")]
    setting = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    asked = [sys.executable, "-c", VLLM, *(str(tmp_path / name) for name in ("saved", "steps")), json.dumps(rows)]
    done = subprocess.run(asked, env=os.environ | setting, capture_output=True, text=True, timeout=300)
    told = [line.partition(" ") for line in done.stdout.splitlines() if line.startswith(("SCORES", "STEPS"))]
    found = {name: json.loads(values) for name, _, values in told}
    assert set(found) == {"SCORES", "STEPS"}, done.stderr[-2000:]
    assert found["SCORES"] == pytest.approx([float(scores_of(lm, row)) for row in rows], abs=1e-4)
    for row, theirs in zip(rows, found["STEPS"], strict=True):
        ids = torch.tensor([row])
        ours = Scorer(of_tokens).eval()(ids, ids >= 0, ids >= 0)["scores"][0, :, 0]
        assert theirs[1:] == pytest.approx(ours.tolist()[1:], abs=1e-4)
