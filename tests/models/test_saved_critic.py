"""Critics as folders: read by transformers, by later critics and by guides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_policy import inputs, make_lm, make_lora
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from llmrl.errors import RecipeError
from llmrl.models.critic import HEAD, Critic, ValueHead, export_critic, saved_head
from llmrl.models.loading import character_tokenizer
from llmrl.models.scorer import load_reward_model
from llmrl.models.weights import merged_weights
from llmrl.recipe_rollout import Guide, Search
from llmrl.rollout.guides import load_guide
from llmrl.rollout.search_scores import load_score

WANTED = frozenset({"value_outputs", "value_outputs_after"})
TOKENIZER = character_tokenizer("0123456789+=")


def saved(lm: Any, folder: Path, context: str | None = None) -> Critic:
    """A critic of two outputs that was written to a folder."""
    head = ValueHead(32, 2, seed=0)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.5, -0.25]))
    export_critic(lm, TOKENIZER, folder, merged_weights(lm), head.state_dict(), context=context)
    return Critic(lm, head, padding_free=False).eval()


@torch.no_grad()
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "lora"])
def test_a_saved_critic_is_a_token_classifier_whose_logits_are_its_outputs(tmp_path, adapted):
    critic = saved(make_lora(make_lm("llama")) if adapted else make_lm("llama"), tmp_path)
    near = 1e-5 if adapted else 1e-6  # an adapter is merged, which rounds
    token_ids, attention_mask, response_mask = inputs()
    expected = critic(token_ids, attention_mask, response_mask, wanted=WANTED)
    loaded, told = AutoModelForTokenClassification.from_pretrained(str(tmp_path), output_loading_info=True)
    assert not any(told.values())
    found = loaded(input_ids=token_ids, attention_mask=attention_mask.long()).logits
    torch.testing.assert_close(
        found[response_mask], expected["value_outputs_after"][response_mask], atol=near, rtol=near
    )
    again: Any = load_reward_model(tmp_path, TOKENIZER, heads=2, of_tokens=True)
    head = ValueHead(32, 2, seed=1)
    head.load_state_dict(saved_head(again, tmp_path))
    handed_on = Critic(again, head, padding_free=False)(token_ids, attention_mask, response_mask, wanted=WANTED)
    for name in WANTED:
        torch.testing.assert_close(handed_on[name], expected[name], atol=near, rtol=near)


def test_a_reward_model_gives_a_critic_its_head(tmp_path):
    make_lm("llama").save_pretrained(tmp_path)
    scorer: Any = load_reward_model(tmp_path, TOKENIZER, heads=2, seed=3)
    found = saved_head(scorer, tmp_path)
    assert torch.equal(found["weight"], scorer.score.weight) and found["bias"].tolist() == [0.0, 0.0]
    critic = Critic(scorer, ValueHead(32, 2, seed=0), padding_free=False)
    critic.head.load_state_dict(found)
    token_ids, attention_mask, response_mask = inputs()
    hidden = scorer.model(input_ids=token_ids, attention_mask=attention_mask.long()).last_hidden_state
    outputs = critic(token_ids, attention_mask, response_mask, wanted=WANTED)["value_outputs_after"]
    torch.testing.assert_close(outputs[response_mask], (hidden @ scorer.score.weight.T)[response_mask])


def test_an_architecture_without_such_a_classifier_keeps_its_head_in_a_file(tmp_path):
    lm = make_lm("olmo2")
    saved(lm, tmp_path)
    assert load_file(tmp_path / HEAD)["bias"].tolist() == [0.5, -0.25]
    assert torch.equal(saved_head(lm, tmp_path)["weight"], ValueHead(32, 2, seed=0).weight)
    again = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    assert torch.equal(again.state_dict()["lm_head.weight"], lm.state_dict()["lm_head.weight"])
    with pytest.raises(RecipeError, match=r"rollout.guide.model: .* is a critic whose architecture has no token class"):
        guide = Guide(model=str(tmp_path), reading="action_value")
        load_guide(guide, TOKENIZER, torch.device("cpu"), key="rollout.guide")


def test_a_critic_of_a_context_neither_guides_nor_searches(tmp_path):
    saved(make_lm("llama"), tmp_path, context="The answer is {answer}.")
    fault = "was trained to read 'The answer is {answer}.' beside the prompt"
    with pytest.raises(RecipeError, match=fault):
        guide = Guide(model=str(tmp_path), reading="value_ratio")
        load_guide(guide, TOKENIZER, torch.device("cpu"), key="rollout.guide")
    with pytest.raises(RecipeError, match=fault):
        load_score(Search(model=str(tmp_path), samples=2), TOKENIZER, "rollout.search")
