"""Rows of public data in each form, as they are published, and what they say in the recipe's own columns."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from llmrl.data.forms import COMPARISONS, DEMONSTRATIONS, FORMS, QUESTIONS, recognised
from llmrl.data.packing import pack
from llmrl.data.prompts import EQUAL, LONG_COMPLETION, LONG_PROMPT, LoadedPrompts, load_prompts
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rows import Data, Rows
from llmrl.types import Group

TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "s"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}
QA = [user("q"), said("a")]
SHARE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
PAIR = {"chosen": "good", "rejected": "bad"}


@pytest.fixture
def load(tmp_path):
    def made(
        rows: list[dict[str, Any]],
        gives: str,
        *,
        limit: int = 100,
        held_out: list[dict[str, Any]] | None = None,
        category: str | None = None,
        **settings: Any,
    ) -> LoadedPrompts:
        tokenizer = character_tokenizer('<>abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ?:{}"\n')
        tokenizer.chat_template = TEMPLATE
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        other = tmp_path / "held_out.jsonl"
        other.write_text("\n".join(map(json.dumps, held_out or [])))
        held = Rows(path=str(other), category=category) if held_out else None
        data = Data(train=Rows(path=str(path), **settings), eval=held)
        return load_prompts(tokenizer, data, limit, max_completion_tokens=limit, gives=gives)

    return made


def shown(loaded: LoadedPrompts, index: int = 0) -> tuple[str, list[tuple[str, float]]]:
    """A prompt and its completions with their rewards, as text; what is not trained on is in parentheses."""
    tokenizer = character_tokenizer('<>abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ?:{}"\n')
    prompt = loaded.train[index]
    one = loaded.demonstrations.get(prompt.id)
    written = [one] if one else loaded.comparisons[prompt.id]

    def text(spans: list[Any]) -> str:
        texts = [(tokenizer.decode(span.token_ids), span.trained) for span in spans]
        return "".join(text if trained else f"({text})" for text, trained in texts)

    return tokenizer.decode(list(prompt.token_ids)), [(text(one.spans), one.reward) for one in written]


@pytest.mark.parametrize(
    ("row", "form", "prompt", "completion"),
    [
        ({"messages": [SYSTEM, *QA]}, "TRL messages", "<s>s<eos>\n<u>q<eos>\n<a>", "a<eos>"),
        ({"messages": [*QA, user("r"), said("b"), user("t")]}, "TRL messages",
         "<u>q<eos>\n<a>a<eos>\n<u>r<eos>\n<a>", "b<eos>"),
        ({"messages": [user("q"), CALL]}, "TRL messages", "<u>q<eos>\n<a>", 'f{"x": 1}<eos>'),
        ({"prompt": "q", "prompt_id": "1", "messages": QA},
         "UltraChat, a prompt and the messages that begin with it", "<u>q<eos>\n<a>", "a<eos>"),
        ({"prompt": "q: ", "completion": "a"}, "TRL text, prompt and completion", "q: ", "a<eos>"),
        ({"prompt": [user("q")], "completion": [said("a")]}, "TRL conversational, prompt and completion",
         "<u>q<eos>\n<a>", "a<eos>"),
        ({"instruction": "do", "input": "1", "output": "a", "system": "s", "history": [["h", "i"]]},
         "LLaMA-Factory alpaca", "<s>s<eos>\n<u>h<eos>\n<a>i<eos>\n<u>do\n1<eos>\n<a>", "a<eos>"),
        ({"instruction": "do", "input": "", "output": "a"}, "LLaMA-Factory alpaca", "<u>do<eos>\n<a>", "a<eos>"),
        ({"conversations": SHARE, "system": "s"}, "ShareGPT", "<s>s<eos>\n<u>q<eos>\n<a>", "a<eos>"),
        ({"input": "q", "output": "a"}, "OpenRLHF input and output", "q", "a<eos>"),
    ],
)  # fmt: skip
def test_demonstrations(load, row, form, prompt, completion):
    loaded = load([row], DEMONSTRATIONS)
    assert loaded.forms == {"train": form}
    assert shown(loaded) == (prompt, [(completion, 0.0)])


BOTH = [("good<eos>", 1.0), ("bad<eos>", 0.0)]
ASKED = "<u>q<eos>\n<a>"


@pytest.mark.parametrize(
    ("row", "form", "prompt", "completions"),
    [
        ({"prompt": "q: ", **PAIR}, "TRL text, explicit prompt", "q: ", BOTH),
        ({"prompt": [user("q")], "chosen": [said("good")], "rejected": [said("bad")]},
         "TRL conversational, explicit prompt", ASKED, BOTH),
        # UltraFeedback: a text, and conversations that begin with it; it is asked once
        ({"prompt": "q", "chosen": [user("q"), said("good")], "rejected": [user("q"), said("bad")],
          "messages": QA, "score_chosen": 8.0, "score_rejected": 8.0},
         "TRL conversational, explicit prompt", ASKED, BOTH),
        ({"prompt": [user("q")], "chosen": [SYSTEM, user("q"), said("good")],
          "rejected": [SYSTEM, user("q"), said("bad")]},
         "TRL conversational, explicit prompt", f"<s>s<eos>\n{ASKED}", BOTH),
        ({"chosen": [*QA, user("r"), said("good")], "rejected": [*QA, user("r"), said("bad")]},
         "TRL conversational, implicit prompt", "<u>q<eos>\n<a>a<eos>\n<u>r<eos>\n<a>", BOTH),
        ({"chosen": [user("q"), said("b"), user("r"), said("good")], "rejected": [user("q"), said("bad")]},
         "TRL conversational, implicit prompt", ASKED, [("b<eos>(\n<u>r<eos>\n<a>)good<eos>", 1.0), BOTH[1]]),
        # texts without a prompt have none, though they begin alike
        ({"chosen": "It is blue", "rejected": "It is green"}, "TRL text, implicit prompt", "<eos>",
         [("It is blue<eos>", 1.0), ("It is green<eos>", 0.0)]),
        ({"input": "q", **PAIR}, "OpenRLHF input, chosen and rejected", "q", BOTH),
        ({"system": "s", "question": "q", **PAIR}, "Orca question, chosen and rejected", f"<s>s<eos>\n{ASKED}", BOTH),
        ({"instruction": "q", "input": "", **PAIR}, "LLaMA-Factory alpaca pairs", ASKED, BOTH),
        ({"conversations": SHARE[:1], "chosen": {"from": "gpt", "value": "good"},
          "rejected": {"from": "gpt", "value": "bad"}}, "ShareGPT pairs", ASKED, BOTH),
        ({"prompt": "q", "completion": "a", "label": True}, "TRL text, unpaired", "q", [("a<eos>", 1.0)]),
        ({"prompt": "q", "completion": "a", "label": "bad"}, "TRL text, unpaired", "q", [("a<eos>", 0.0)]),
        ({"input": "q", "output": "a", "label": 0}, "OpenRLHF input, output and label", "q", [("a<eos>", 0.0)]),
        ({"instruction": "q", "output": "a", "kto_tag": "true"}, "LLaMA-Factory alpaca with kto_tag", ASKED,
         [("a<eos>", 1.0)]),
        ({"conversations": SHARE, "kto_tag": False}, "ShareGPT with kto_tag", ASKED, [("a<eos>", 0.0)]),
        ({"messages": QA, "label": 1}, "messages with label", ASKED, [("a<eos>", 1.0)]),
        ({"prompt": "q", "completions": ["a", "b", "c"], "scores": [1, 0.5, -2]}, "ranked completions", "q",
         [("a<eos>", 1.0), ("b<eos>", 0.5), ("c<eos>", -2.0)]),
        ({"prompt": "q", "response": "a", "helpfulness": 4, "correctness": None, "coherence": 3, "complexity": 1,
          "verbosity": 0}, "HelpSteer attributes", "q", [("a<eos>", 2.0)]),
        # a positive strength says that the second response is better
        ({"prompt": "q", "response_1": "bad", "response_2": "good", "preference_strength": 2}, "HelpSteer2 preference",
         "q", [("bad<eos>", 0.0), ("good<eos>", 2.0)]),
        ({"context": [user("q")], "response1": "good", "response2": "bad", "overall_preference": -1},
         "HelpSteer3 preference", ASKED, [("good<eos>", 1.0), ("bad<eos>", 0.0)]),
    ],
)  # fmt: skip
def test_comparisons(load, row, form, prompt, completions):
    loaded = load([row], COMPARISONS)
    assert loaded.forms == {"train": form}
    assert shown(loaded) == (prompt, completions)


def test_components_of_a_completion(load):
    rows = [{"prompt": "q", "response": "a", "help": {"score": 2}, "brief": None}]
    loaded = load(rows, COMPARISONS, prompt="prompt", completion="response", components=["help.score", "brief"])
    [written] = loaded.comparisons["train:0"]
    assert written.components["help.score"] == written.reward == 2 and math.isnan(written.components["brief"])
    batch = pack([Group(loaded.train[0], [written.trajectory(loaded.train[0], "actor")])], "actor")
    assert batch.reward_components.nan_to_num(nan=9).tolist() == [[2, 9]] and loaded.components == 2
    with pytest.raises(RecipeError, match=r"train.components: train:0: expected a finite number as score, got 'x'"):
        load([rows[0] | {"brief": "x"}], COMPARISONS, prompt="prompt", completion="response", components=["brief"])


def test_a_text_without_a_prompt_begins_with_the_tokenizer_s_own_first_token(load):
    loaded = load([{"chosen": "good", "rejected": "bad"}], COMPARISONS)
    assert loaded.train[0].token_ids == (1,)  # <eos>, for want of a beginning of sequence


def test_rows_that_are_asked_in_the_form_of_verl(load):
    row = {"data_source": "sums", "prompt": [user("q")], "reward_model": {"style": "rule", "ground_truth": "2"}}
    loaded = load([row], QUESTIONS)
    assert loaded.forms == {"train": "verl"}
    assert loaded.train[0].text == ASKED and loaded.train[0].row["answer"] == "2"


def test_the_recipe_s_keys_go_first(load):
    rows = [{"prompt": "q", "chosen": "good", "rejected": "bad", "text": "t"}]
    loaded = load(rows, COMPARISONS, prompt="text", chosen="rejected", rejected="chosen")
    assert loaded.forms == {}
    assert shown(loaded) == ("t", [("bad<eos>", 1.0), ("good<eos>", 0.0)])


def test_no_form_and_several_forms(load):
    with pytest.raises(RecipeError) as caught:
        load([{"text": "q", "reply": "a"}], DEMONSTRATIONS)
    assert str(caught.value) == (
        "data.train: the columns text, reply are of no form that is known for demonstrations; name the columns with "
        "prompt and completion, or bring one of these sets of columns: messages; prompt, messages; prompt, completion; "
        "instruction, output; conversations; input, output"
    )
    with pytest.raises(RecipeError, match=r"known for comparisons \(did you mean 'rejected' by 'reject'\?\); name the"):
        load([{"prompt": "q", "chosen": "a", "reject": "b"}], COMPARISONS)
    with pytest.raises(RecipeError) as caught:
        load([{"messages": QA, "conversations": SHARE}], DEMONSTRATIONS)
    assert str(caught.value) == (
        "data.train: the columns messages, conversations fit several forms: TRL messages and ShareGPT; name the "
        "columns with prompt and completion"
    )


def test_no_two_forms_of_a_purpose_fit_the_columns_that_one_of_them_needs():
    for form in FORMS:
        assert recognised(form.columns, form.gives) == form


@pytest.mark.parametrize(
    ("rows", "gives", "fault"),
    [
        ([{"prompt": "q", "completion": "a", "label": "maybe"}], COMPARISONS,
         "data.train.label: train:0: expected a label that says good or bad (true, 1, "),
        ([{"prompt": "q", "completions": ["a", "b"], "scores": [1]}], COMPARISONS,
         "data.train.scores: train:0: 1 scores for 2 completions; expected one for each"),
        ([{"prompt": "q", "completions": ["a", "b"], "scores": [1, None]}], COMPARISONS,
         "data.train.scores: train:0: expected a finite number as score, got None"),
        ([{"chosen": [user("q"), said("a")], "rejected": [user("r"), said("b")]}], COMPARISONS,
         "data.train: train:0: chosen and rejected begin with different messages, so there is no prompt"),
        ([{"messages": [user("q")]}], DEMONSTRATIONS,
         "data.train: train:0: no message is the assistant's, so there is nothing to imitate"),
        ([{"messages": "q"}], DEMONSTRATIONS, "data.train: train:0: messages: expected a list of messages, got 'q'"),
    ],
)  # fmt: skip
def test_rows_that_are_not_of_their_form(load, rows, gives, fault):
    with pytest.raises(RecipeError) as caught:
        load(rows, gives)
    assert str(caught.value).startswith(fault)


def test_comparisons_that_cannot_be_used_are_dropped_and_counted(load):
    rows = [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": "same", "rejected": "same"},
        {"prompt": "q" * 9, "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": "good", "rejected": "bad" * 3},
    ]
    loaded = load(rows, COMPARISONS, limit=8)
    assert [prompt.id for prompt in loaded.train] == ["train:0"] and list(loaded.comparisons) == ["train:0"]
    assert loaded.dropped["train"] == {LONG_PROMPT: 1, "the completions are equal": 1, LONG_COMPLETION: 1}
    tied = [{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": n} for n in (0, 1)]
    assert load(tied, COMPARISONS).dropped["train"] == {"no completion is better than another": 1}


def test_labels_of_rows_without_pairs(load):
    rows = [{"prompt": f"q{n}", "completion": "a", "label": n < 2} for n in range(4)]
    assert load(rows, COMPARISONS).labels == {"train:0": 1, "train:1": 1, "train:2": 0, "train:3": 0}
    assert load([{"prompt": "q", **PAIR}], COMPARISONS).labels == {}


def test_held_out_pairs_are_compared_and_counted_as_training_pairs_are(load):
    """Whatever their column of the question is called; rows of no such form are asked by their column `question`."""
    held_out = [
        PAIR | {"question": "one", "part": "x/y"},
        {"question": "two", "chosen": "same", "rejected": "same", "part": 1},
        PAIR | {"question": "three", "part": 2},
    ]
    loaded = load([PAIR | {"prompt": "p"}], COMPARISONS, held_out=held_out, category="part")
    assert loaded.forms == {"train": "TRL text, explicit prompt", "eval": "Orca question, chosen and rejected"}
    assert [prompt.id for prompt in loaded.eval] == ["eval:0", "eval:2"]
    assert [one.reward for one in loaded.comparisons["eval:2"]] == [1.0, 0.0]
    assert loaded.dropped["eval"] == {EQUAL: 1}
    assert loaded.categories == {"eval:0": "x_y", "eval:2": "2"}
    assert loaded.written_counts == [2] and loaded.labels == {}
    asked = load([PAIR | {"prompt": "p"}], COMPARISONS, held_out=[{"question": "one", "answer": "a"}])
    assert (asked.forms, asked.comparisons.keys()) == ({"train": "TRL text, explicit prompt"}, {"train:0"})


def test_categories_are_few_and_named_by_a_column_that_is_there(load):
    many = [PAIR | {"prompt": f"p{n}", "part": str(n)} for n in range(101)]
    with pytest.raises(RecipeError, match=r"data.eval.category: 'part' has 101 values, expected at most 100"):
        load([PAIR | {"prompt": "p"}], COMPARISONS, held_out=many, category="part")
    with pytest.raises(RecipeError, match=r"data.eval.category: .*'part'"):
        load([PAIR | {"prompt": "p"}], COMPARISONS, held_out=many, category="parts")
