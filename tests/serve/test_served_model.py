from __future__ import annotations

import pytest
import torch
from reward_model import make_reward_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from llmrl.errors import RecipeError
from llmrl.serve.model import ServedModel

TEXTS = ["1+2=3", "12+34=46 is right", "no"]


def by_itself(folder, token_ids) -> list[float]:
    """transformers' own logits of one row, with a padding token that the row does not end with."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    model.config.pad_token_id = next(one for one in (0, 1) if token_ids[-1] != one)
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0].tolist()


@pytest.mark.parametrize(("labels", "pad_is_eos"), [(1, False), (1, True), (3, True)])
def test_scores_are_read_at_the_last_token_whatever_pads(tmp_path, labels, pad_is_eos):
    folder = make_reward_model(tmp_path, labels=labels, pad_is_eos=pad_is_eos)
    model = ServedModel(folder)
    rows = [model.text_ids(text) + [1] * (place % 2) for place, text in enumerate(TEXTS)]  # with <eos> and without
    scores = model.scores(rows)
    assert len({round(one[0], 3) for one in scores}) == len(rows)
    for row, score in zip(rows, scores, strict=True):
        assert score == pytest.approx(by_itself(folder, row), abs=1e-5)
    assert model.scores(rows[:1])[0] == pytest.approx(scores[0], abs=1e-6)  # alone as in a batch
    model.tokenizer.padding_side = "left"
    assert model.scores(rows) == scores


def test_answers_are_closed_once_with_the_stop_token(tmp_path):
    model = ServedModel(make_reward_model(tmp_path))
    decode = model.tokenizer.decode
    assert decode(model.answer_ids("1+2=", "3")) == "1+2=3<eos>"
    assert decode(model.answer_ids("1+2=", "3<eos>")) == "1+2=3<eos>"
    assert decode(model.text_ids("1+2=3")) == "1+2=3"
    said = [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "3"}]
    assert decode(model.message_ids(said)) == "<user>1+2<assistant>3<eos>"


def test_a_text_has_one_first_token(tmp_path):
    model = ServedModel(make_reward_model(tmp_path))
    tokenizer = model.tokenizer
    tokenizer.bos_token = "<pad>"  # a token that the model has
    begun = TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = begun
    for ids in (model.text_ids("1+2"), model.text_ids("<pad>1+2")):
        assert tokenizer.decode(ids) == "<pad>1+2"
    assert tokenizer.decode(model.text_ids("1+2", bare=True)) == "1+2"
    assert tokenizer.decode(model.answer_ids("<pad>1+2=", "3")) == "<pad>1+2=3<eos>"


def test_a_folder_without_a_trained_head_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"config\.json"):
        ServedModel(tmp_path / "nothing")
    folder = make_reward_model(tmp_path / "rm")
    config = LlamaConfig.from_pretrained(folder)
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(RecipeError, match="LlamaForCausalLM, expected a reward model"):
        ServedModel(folder)
    config.architectures = ["LlamaForSequenceClassification"]
    config.save_pretrained(folder)  # a head would be drawn at random
    with pytest.raises(RecipeError, match=r"lack score\.weight"):
        ServedModel(folder)
