"""Which tokens of a conversation are trained, drawn for templates with the shapes of public models' ones.

The tokens are those that the model reads; what is trained stands in [brackets]. One token a character, but for the
special tokens, which are one token each.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmrl.data.packing import pack
from llmrl.data.prompts import load_prompts
from llmrl.errors import RecipeError
from llmrl.recipe_rows import Data, Rows
from llmrl.types import ACTOR, Group

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASK_CHATML = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
QWEN3 = (  # an empty thought in the last answer alone, and thoughts dropped from the others
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (  # a closing token once, behind the conversation
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|end|>", "<s>", "</s>"),
]
TALK = [
    {"role": "user", "content": "1+1"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "and 2"},
    {"role": "assistant", "content": "4"},
]


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    characters = sorted({*map(chr, range(33, 127)), " ", "\n"})
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(.|\n)"), "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL[:-2]})
    made.chat_template = template
    return made


def drawn(tmp_path: Any, template: str, end: str, talk: list[dict[str, Any]], turns: str = "all") -> str:
    """The tokens of a packed conversation, line by line; [trained]."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": talk}))
    tokenizer = tokenizer_of(template)
    data = Data(train=Rows(path=str(path), turns=turns))
    stops = [tokenizer.convert_tokens_to_ids(end)]
    loaded = load_prompts(tokenizer, data, 500, stop_token_ids=stops, gives="demonstrations")
    [prompt] = loaded.train
    batch = pack([Group(prompt, [loaded.demonstrations[prompt.id].trajectory(prompt, ACTOR)])], ACTOR)
    text, trained = "", False
    for token, mask in zip(batch.token_ids[0].tolist(), batch.response_mask[0].tolist(), strict=True):
        text += ("[" if mask and not trained else "]" if trained and not mask else "") + tokenizer.decode([token])
        trained = mask
    return text + "]" * trained


@pytest.mark.parametrize(
    ("template", "end", "expected"),
    [
        (CHATML + ASK_CHATML, "<|im_end|>",
         "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]\n"
         "<|im_start|>user\nand 2<|im_end|>\n<|im_start|>assistant\n[4<|im_end|>]"),
        (QWEN3 + ASK_CHATML, "<|im_end|>",
         "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]\n"
         "<|im_start|>user\nand 2<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\n4<|im_end|>]"),
        (LLAMA3, "<|eot_id|>",
         "<s><|start_header_id|>user<|end_header_id|>\n\n1+1<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n[2<|eot_id|>]"
         "<|start_header_id|>user<|end_header_id|>\n\nand 2<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n[4<|eot_id|>]"),
        (GEMMA, "<end_of_turn>",
         "<s><start_of_turn>user\n1+1<end_of_turn>\n<start_of_turn>model\n[2<end_of_turn>]\n"
         "<start_of_turn>user\nand 2<end_of_turn>\n<start_of_turn>model\n[4<end_of_turn>]"),
        (MISTRAL, "</s>", "<s>[INST] 1+1[/INST][ 2</s>][INST] and 2[/INST][ 4</s>]"),
        (PHI3, "<|end|>",
         "<|user|>\n1+1<|end|>\n<|assistant|>\n[2<|end|>]\n<|user|>\nand 2<|end|>\n<|assistant|>\n[4<|end|>]"),
    ],
    ids=["ChatML", "Qwen3", "Llama-3", "Gemma", "Mistral", "Phi-3"],
)  # fmt: skip
def test_every_answer_and_its_end_of_turn_are_trained(tmp_path, template, end, expected):
    assert drawn(tmp_path, template, end, TALK) == expected


def test_the_last_answer_alone(tmp_path):
    assert drawn(tmp_path, GEMMA, "<end_of_turn>", TALK, "last") == (
        "<s><start_of_turn>user\n1+1<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n"
        "<start_of_turn>user\nand 2<end_of_turn>\n<start_of_turn>model\n[4<end_of_turn>]"
    )


def test_a_greeting_is_not_trained_and_what_stands_between_answers_may_be_another_answer(tmp_path):
    greeted = [{"role": "assistant", "content": "hi"}, *TALK[:2], {"role": "assistant", "content": "two"}]
    assert drawn(tmp_path, CHATML + ASK_CHATML, "<|im_end|>", greeted) == (
        "<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]\n"
        "<|im_start|>assistant\n[two<|im_end|>]"
    )


def test_thoughts_that_the_template_drops_from_earlier_answers(tmp_path):
    thinking = [TALK[0], {"role": "assistant", "content": "<think>hm</think>2"}, *TALK[2:]]
    found = drawn(tmp_path, QWEN3 + ASK_CHATML, "<|im_end|>", thinking)
    assert "<|im_start|>assistant\n[2<|im_end|>]\n<|im_start|>user" in found


def test_a_template_that_opens_a_thought_in_the_prompt_cannot_train_every_answer_at_once(tmp_path):
    opens = CHATML + ASK_CHATML.replace("assistant\n", "assistant\n<think>\n")
    with pytest.raises(RecipeError) as caught:
        drawn(tmp_path, opens, "<|im_end|>", TALK)
    assert str(caught.value).startswith(
        "data.train.completion: train:0: the chat template changes the prompt once answers follow it, so they cannot "
        "be trained at once; after "
    )


def test_an_answer_that_the_template_does_not_show(tmp_path):
    silent = MISTRAL.replace("{% else %} {{ m.content }}{{ eos_token }}", "{% else %}")
    with pytest.raises(RecipeError, match="the chat template shows nothing of message 1, or of what stands before it"):
        drawn(tmp_path, silent, "</s>", TALK)
