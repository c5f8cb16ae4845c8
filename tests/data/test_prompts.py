"""Prompts as hand-written strings and token ids, with a tokenizer that has one token a character.

<pad> 0, <eos> 1, <unk> 2, then CHARACTERS: '0' 3 ... '9' 12, '+' 13, '=' 14, '[' 15, ']' 16, 's' 17, 'u' 18, 'a' 19,
'#' 20, ' ' 21, newline 22, '{' 23, '}' 24, ',' 25
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from llmrl.data.prompt_builder import PromptBuilder
from llmrl.data.prompts import LONG_COMPLETION, load_prompts
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rows import Data, Rows
from llmrl.types import Prompt

CHARACTERS = "0123456789+=[]sua# \n{},"
EOS = 1
TEMPLATE = (
    "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)
ROWS = [{"q": "1+1", "a": "2"}, {"q": "2+3", "a": "5"}, {"q": "4+4", "a": "8"}]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    made = character_tokenizer(CHARACTERS)
    made.chat_template = TEMPLATE
    return made


def rows(**settings: Any) -> Rows:
    return Rows(**{"path": "unread.jsonl", "prompt": "{q}=", "answer": "a", **settings})


def build(tokenizer, data=ROWS, limit: int = 1000, **settings: Any) -> list[Prompt]:
    return PromptBuilder(tokenizer, rows(**settings), data).build(limit)[0]


def fault(tokenizer, data=ROWS, **settings: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        build(tokenizer, data, **settings)
    return str(caught.value)


def test_plain_prompt_is_the_template_filled(tokenizer):
    first = build(tokenizer, [{"q": "1+1", "a": "2", "level": 3}])[0]
    # 1+1= : '1' 4, '+' 13, '1' 4, '=' 14; no end-of-sequence token
    assert first == Prompt("train:0", (4, 13, 4, 14), "1+1=", {"q": "1+1", "a": "2", "level": 3, "answer": "2"})


def test_column_template_and_function(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "my_rows.py").write_text("def double(row):\n    return row['q'] + row['q']\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = [{"q": "1", "n": 7, "my_rows:double": "9"}]
    assert build(tokenizer, data, prompt="q", answer="n")[0].text == "1"
    assert build(tokenizer, data, prompt="{{{q}}}+{n}=}}", answer="n")[0].text == "{1}+7=}"
    assert build(tokenizer, [{"q": "1", "n": 7}], prompt="my_rows:double", answer="n")[0].text == "11"
    assert build(tokenizer, data, prompt="my_rows:double", answer="n")[0].text == "9"  # a column goes first
    answer = build(tokenizer, data, answer="n")[0].row["answer"]
    assert answer == 7 and isinstance(answer, int)  # an answer keeps its type


def test_a_template_reaches_into_a_column(tokenizer):
    nested = [{"m": {"e": {"x": "1+2"}}, "m.e.x": "0", "a": "3"}, {"m": {"e": {"x": "4+5"}}, "a": "9"}]
    # a column of that very name goes first
    assert [prompt.text for prompt in build(tokenizer, nested, prompt="{m.e.x}=")] == ["0=", "4+5="]
    assert fault(tokenizer, nested[1:], prompt="{m.f.x}=") == "data.train.prompt: train:0: no column 'f' (columns: e)"


def test_each_key_takes_a_path_into_a_column(tokenizer):
    # as verl stores its rows: the golds in a mapping, which may be JSON text
    golds = [{"ground_truth": ["2", "two"]}, '{"ground_truth": ["5", "five"]}']
    data = [{"reward_model": gold, "x": {"q": "1+1", "s": "2#"}} for gold in golds]
    builder = PromptBuilder(
        tokenizer, rows(prompt="x.q", answer="reward_model.ground_truth", completion="x.s", few_shot=[data[1]]), data
    )
    prompts, _ = builder.build(1000)
    assert [prompt.text for prompt in prompts] == ["1+12#\n\n1+1"] * 2
    assert [prompt.row["answer"] for prompt in prompts] == [["2", "two"], ["5", "five"]]
    assert builder.demonstration(prompts[0]).token_ids == [5, 20, EOS]  # 2 # <eos>
    assert fault(tokenizer, [*ROWS, {"q": "1", "a": {"b": "2"}}], answer="a.b") == (
        "data.train.answer: train:0: no column 'a.b' (columns: q, a)"
    )
    assert fault(tokenizer, [{"q": "1", "a": {"b": "2"}}, {"q": "1", "a": {"c": "2"}}], answer="a.b") == (
        "data.train.answer: train:1: no column 'b' (columns: c)"
    )
    assert fault(tokenizer, [{"q": "1", "a": {"b": "2"}}], answer="aa.b").startswith(
        "data.train.answer: no column 'aa.b'"
    )


def test_every_misspelt_column_is_named_at_once_and_what_is_probably_asked(tokenizer):
    rows, held = [{"prompt": "1", "chosen": "2", "rejected": "3"}], "(columns: prompt, chosen, rejected)"
    assert fault(tokenizer, rows, prompt="question", chosen="choosen", rejected="rejected") == (
        f"data.train.prompt: no column 'question', the default; did you mean 'prompt'? {held}\n"
        f"data.train.chosen: no column 'choosen'; did you mean 'chosen'? {held}"
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"prompt": "question"}, "data.train.prompt: no column 'question', the default (columns: q, a)"),
        ({"prompt": "{qq}="}, "data.train.prompt: no column 'qq'; did you mean 'q'? (columns: q, a)"),
        ({"prompt": "{q.upper}"}, "data.train.prompt: train:0: no column 'q.upper' (columns: q, a)"),
        ({"prompt": "{q!r}"}, "data.train.prompt: no column 'q!r' (columns: q, a)"),
        ({"prompt": "{q.1}"}, "data.train.prompt: train:0: no column 'q.1' (columns: q, a)"),
        (
            {"prompt": r"{q} \boxed{}"},
            r"data.train.prompt: '{}' at character 10 of '{q} \\boxed{}' names no column; to mean braces write '{{}}'",
        ),
        (
            {"prompt": r"\frac{q}{2}"},
            "data.train.prompt: no column '2' (columns: q, a); to mean braces write '{{2}}'",
        ),
        (
            {"prompt": r"{q} \text{so}"},
            "data.train.prompt: no column 'so' (columns: q, a); to mean braces write '{{so}}'",
        ),
        (
            {"prompt": '{q} {"answer": 2}'},
            """data.train.prompt: no column '"answer": 2' (columns: q, a); to mean braces write '{{"answer": 2}}'""",
        ),
        ({"answer": "aa"}, "data.train.answer: no column 'aa'; did you mean 'a'? (columns: q, a)"),
        ({"completion": "sol"}, "data.train.completion: no column 'sol' (columns: q, a)"),
        ({"prompt": "{q} }"}, "data.train.prompt: single '}' at character 4 of '{q} }'; double it to mean a brace"),
        ({"prompt": "json:nope"}, "data.train.prompt: cannot import 'json:nope'"),
        ({"prompt": "math:sqrt"}, "data.train.prompt: train:0: math:sqrt raised TypeError"),
        ({"answer_after": "####"}, "data.train.answer_after: train:0: no '####' in its answer '2'"),
        ({"few_shot": 3}, "data.train.few_shot: 3 examples taken from 3 rows leave none to train on"),
        ({"few_shot": [{"q": "1"}]}, "data.train.answer: few_shot[0]: no column 'a' (columns: q)"),
    ],
)
def test_faults_name_key_and_nearest(tokenizer, settings, expected):
    assert fault(tokenizer, **settings).startswith(expected)


def test_faults_of_single_rows(tokenizer):
    assert fault(tokenizer, [{"q": "1", "a": "2"}, {"a": "2"}]) == (
        "data.train.prompt: train:1: no column 'q' (columns: a)"
    )
    assert fault(tokenizer, [{"q": "1", "a": "2"}, {"q": None, "a": "2"}]) == (
        "data.train.prompt: train:1: column 'q': expected text, got NoneType None"
    )


def test_answer_after_takes_what_follows_the_last_marker(tokenizer):
    data = [{"q": "1", "a": "first #### 2 then\n#### 1,234 \n"}]
    assert build(tokenizer, data, answer_after="####")[0].row == {"q": "1", "a": data[0]["a"], "answer": "1,234"}


def test_answer_column_is_replaced_by_the_resolved_answer_but_the_completion_is_not(tokenizer):
    data = [{"q": "1", "answer": "1+1#2"}]
    builder = PromptBuilder(tokenizer, rows(answer="answer", answer_after="#", completion="answer"), data)
    prompt = builder.build(100)[0][0]
    assert prompt.row["answer"] == "2"
    assert builder.demonstration(prompt).token_ids == [4, 13, 4, 20, 5, EOS]  # 1 + 1 # 2 <eos>


def test_rows_without_an_answer(tokenizer):
    assert build(tokenizer, [{"q": "1"}], answer=None)[0].row == {"q": "1"}
    assert build(tokenizer, [{"q": "1"}], answer="answer", completion="q")[0].row == {"q": "1"}
    assert build(tokenizer, [{"q": "1"}], answer="answer")[0].row == {"q": "1"}
    mixed = build(tokenizer, [{"q": "1", "answer": 1}, {"q": "2", "tests": "assert f()"}], answer="answer")
    assert [prompt.row.get("answer") for prompt in mixed] == [1, None]
    assert fault(tokenizer, [{"q": "1"}], answer="gold").startswith("data.train.answer: no column 'gold'")


def test_plain_few_shot_from_the_first_rows(tokenizer):
    prompts = build(tokenizer, few_shot=2)
    assert [(p.id, p.text) for p in prompts] == [("train:2", "1+1=2\n\n2+3=5\n\n4+4=")]


def test_an_example_shows_the_first_of_several_golds_and_needs_one(tokenizer):
    assert build(tokenizer, [{"q": "1+1", "a": [2, "two"]}, *ROWS], few_shot=1)[0].text == "1+1=2\n\n1+1="
    missing = "data.train.answer: few_shot[0]: null is no answer; expected text, a finite number, or a list of these"
    assert fault(tokenizer, [{"q": "1+1", "a": None}, *ROWS], few_shot=1).startswith(missing)


def test_plain_few_shot_written_out_shows_the_completion_where_there_is_one(tokenizer):
    examples = [{"q": "0+1", "a": "1", "work": " 0 1 # 1"}]
    data = [{"q": "1+1", "a": "2", "work": " 1 1 # 2"}, {"q": "2+3", "a": "5", "work": " 2 3 # 5"}]
    prompts = build(tokenizer, data, few_shot=examples, completion="work")
    assert [p.text for p in prompts] == ["0+1= 0 1 # 1\n\n1+1=", "0+1= 0 1 # 1\n\n2+3="]


def test_chat_prompt_with_system_and_few_shot(tokenizer):
    prompts = build(tokenizer, chat=True, system_prompt="sss", few_shot=1)
    assert [p.text for p in prompts] == [
        "[s]sss<eos>\n[u]1+1=<eos>\n[a]2<eos>\n[u]2+3=<eos>\n[a]",
        "[s]sss<eos>\n[u]1+1=<eos>\n[a]2<eos>\n[u]4+4=<eos>\n[a]",
    ]
    said = [(message["role"], message["content"]) for message in prompts[0].messages or ()]
    assert said == [("system", "sss"), ("user", "1+1="), ("assistant", "2"), ("user", "2+3=")]
    assert build(tokenizer)[0].messages is None
    short = build(tokenizer, [{"q": "1", "a": "2"}], chat=True)[0]
    # [ u ] 1 = <eos> \n [ a ] : the rendered <eos> is one token, not five characters
    assert short.token_ids == (15, 18, 16, 4, 14, EOS, 22, 15, 19, 16)


def with_bos_and_eos(template: str) -> PreTrainedTokenizerBase:
    made = character_tokenizer(CHARACTERS)
    made.add_special_tokens({"bos_token": "<bos>"})
    bos = made.bos_token_id
    processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", bos), ("<eos>", EOS)])
    made.backend_tokenizer.post_processor = processor
    made.chat_template = template
    return made


def test_beginning_of_sequence_once_and_no_closing_end_of_sequence():
    tokenizer = with_bos_and_eos("{{ bos_token }}" + TEMPLATE)
    bos = tokenizer.bos_token_id
    assert tokenizer.encode("1") == [bos, 4, EOS]  # this tokenizer's own convention
    plain = PromptBuilder(tokenizer, rows(completion="a"), ROWS)
    prompt = plain.build(100)[0][0]
    assert prompt.token_ids == (bos, 4, 13, 4, 14)
    assert plain.demonstration(prompt).token_ids == [5, EOS]
    rendered = PromptBuilder(tokenizer, rows(prompt="<bos>{q}"), ROWS)  # as the rollouts of a run have a prompt
    assert rendered.build(100)[0][0].token_ids[:3] == (bos, 4, 13)
    chat = PromptBuilder(tokenizer, rows(completion="a", chat=True), [{"q": "1", "a": "2"}])
    prompt = chat.build(100)[0][0]
    assert prompt.token_ids == (bos, 15, 18, 16, 4, 14, EOS, 22, 15, 19, 16)
    assert chat.demonstration(prompt).token_ids == [5, EOS]


def test_chat_demonstration_ends_at_the_turn_s_stop_token(tokenizer):
    builder = PromptBuilder(tokenizer, rows(completion="{a} {a}", chat=True), [{"q": "1", "a": "2"}])
    prompt = builder.build(100)[0][0]
    #  [u]1=<eos>\n[a] | 2     ' '    2   <eos>  and not the newline the template writes after it
    assert builder.demonstration(prompt).token_ids == [5, 21, 5, EOS]


def test_demonstration_ends_at_the_model_s_own_turn_end():
    # the turn ends in ']' (16), which this model's sampler stops at; <eos> is never rendered
    tokenizer = character_tokenizer(CHARACTERS)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role[0] }}{{ m.content }}]{% endfor %}{% if add_generation_prompt %}[a{% endif %}"
    )
    source, data = rows(completion="a", chat=True), [{"q": "1", "a": "2"}]
    builder = PromptBuilder(tokenizer, source, data, stop_token_ids=(EOS, 16))
    assert builder.demonstration(builder.build(100)[0][0]).token_ids == [5, 16]
    # where the sampler stops at <eos> alone, the demonstration must end in it
    builder = PromptBuilder(tokenizer, source, data)
    assert builder.demonstration(builder.build(100)[0][0]).token_ids == [5, 16, EOS]


def test_demonstration_keeps_the_prompt_s_tokens_where_a_merge_would_cross_the_boundary():
    # "1=" + "2": the merge '=','2' -> '=2' exists, so the whole text is [1, =2] and the prompt's '=' would be lost
    tokenizer = character_tokenizer("0123456789=")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["=2"] = merged = len(tokenizer)
    state["model"]["merges"] = [["=", "2"]]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    one, equals, two = tokenizer.convert_tokens_to_ids(["1", "=", "2"])
    assert tokenizer.encode("1=2") == [one, merged]
    builder = PromptBuilder(tokenizer, rows(completion="a"), [{"q": "1", "a": "2"}])
    prompt = builder.build(100)[0][0]
    assert (prompt.token_ids, builder.demonstration(prompt).token_ids) == ((one, equals), [two, EOS])


def test_demonstrations_need_a_completion_and_a_template_that_extends_the_prompt(tokenizer):
    builder = PromptBuilder(tokenizer, rows(), ROWS)
    with pytest.raises(RecipeError, match=r"data\.train\.completion: required for demonstrations"):
        builder.demonstration(builder.build(100)[0][0])
    tokenizer.chat_template = (
        "{% if add_generation_prompt %}[a]{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    builder = PromptBuilder(tokenizer, rows(chat=True, completion="a"), ROWS)
    with pytest.raises(RecipeError, match=r"after '' the prompt has .*a.1.1=., the conversation '1.1=2'"):
        builder.demonstration(builder.build(100)[0][0])


def test_chat_faults(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    assert fault(tokenizer, chat=True) == (
        "data.train.chat: train:0: the chat template refuses these messages: no system role"
    )
    tokenizer.chat_template = None
    assert fault(tokenizer, chat=True) == (
        "data.train.chat: true, but the tokenizer has no chat template; set model.chat_template"
    )


def test_characters_outside_the_vocabulary_are_refused(tokenizer):
    assert fault(tokenizer, [{"q": "1", "a": "2"}, {"q": "xéx", "a": "2"}]) == (
        "data.train.prompt: train:1 has characters that the vocabulary lacks: 'xé'"
    )
    builder = PromptBuilder(tokenizer, rows(completion="a"), [{"q": "1", "a": "two"}])
    with pytest.raises(RecipeError, match=r"data\.train\.completion: train:0 has characters .* 'two'"):
        builder.demonstration(builder.build(100)[0][0])


def test_long_prompts_are_dropped_whole_and_counted(tokenizer):
    data = [{"q": "1", "a": "1"}, {"q": "1+1+1", "a": "3"}, {"q": "22", "a": "22"}]
    prompts, dropped = PromptBuilder(tokenizer, rows(), data).build(3)
    # "1=" 2 tokens, "1+1+1=" 6, "22=" 3
    assert [(p.id, p.text) for p in prompts] == [("train:0", "1="), ("train:2", "22=")]
    assert dropped == 1


def write(path: Path, questions: list[str]) -> str:
    lines = [json.dumps({"q": question, "a": "2", "work": "1" * len(question)}) for question in questions]
    path.write_text("\n".join(lines))
    return str(path)


def test_load_prompts_drops_what_eval_asks_and_keeps_duplicates(tokenizer, tmp_path):
    train = write(tmp_path / "train.jsonl", ["9", "1+1", "2+2", "2+2", "3+3 ", "1+1+1+1"])
    held_out = write(tmp_path / "eval.jsonl", ["8", "1+1", "3+3", "1+1+1+1+1"])
    data = Data(train=rows(path=train, prompt="{q}", few_shot=1), eval=rows(path=held_out, prompt="{q}", few_shot=1))
    # train texts: "92\n\n" (4 tokens) + question, eval: "82\n\n" + question; train 5 has 4 + 7, eval 3 has 4 + 9
    loaded = load_prompts(tokenizer, data, max_prompt_tokens=10)
    assert [(p.id, p.text) for p in loaded.train] == [("train:2", "92\n\n2+2"), ("train:3", "92\n\n2+2")]
    assert [(p.id, p.text) for p in loaded.eval] == [("eval:1", "82\n\n1+1"), ("eval:2", "82\n\n3+3")]
    assert loaded.told_dropped("train") == (
        "3 rows dropped: 1 because the prompt is longer than rollout.max_prompt_tokens; 2 because the question is in "
        "eval too; nothing is ever cut short"
    )
    assert loaded.dropped["eval"].total() == 1
    assert loaded.questions == {"train:2": "2+2", "train:3": "2+2", "eval:1": "1+1", "eval:2": "3+3"}
    assert loaded.demonstrations == {}


def test_load_prompts_makes_demonstrations_and_drops_those_too_long(tokenizer, tmp_path):
    data = Data(train=rows(path=write(tmp_path / "train.jsonl", ["1", "1+1", "22"]), completion="work"))
    loaded = load_prompts(tokenizer, data, 100, max_completion_tokens=3)
    # completions "1", "111", "11", each followed by <eos>: 2, 4 and 3 tokens
    found = {name: written.token_ids for name, written in loaded.demonstrations.items()}
    assert found == {"train:0": [4, EOS], "train:2": [4, 4, EOS]}
    assert [p.id for p in loaded.train] == ["train:0", "train:2"]
    assert loaded.dropped["train"] == {LONG_COMPLETION: 1}


def test_load_prompts_with_nothing_left(tokenizer, tmp_path):
    train = write(tmp_path / "train.jsonl", ["1", "1+1+1"])
    data = Data(train=rows(path=train, prompt="q"), eval=rows(path=write(tmp_path / "eval.jsonl", ["1"]), prompt="q"))
    with pytest.raises(RecipeError) as caught:
        load_prompts(tokenizer, data, max_prompt_tokens=2)
    assert str(caught.value) == (
        "data.train: no rows left: 2 rows dropped: 1 because the prompt is longer than rollout.max_prompt_tokens; "
        "1 because the question is in eval too; nothing is ever cut short"
    )


def test_rows_of_other_seeds_ask_other_questions(tokenizer, tmp_path):
    """As where an environment makes an episode of each seed, and every row asks the same."""
    files = {}
    for part, seeds in (("train", [1, 2]), ("eval", [2, 3])):
        files[part] = tmp_path / f"{part}.jsonl"
        files[part].write_text("".join(json.dumps({"q": "1+1", "a": "2", "seed": seed}) + "\n" for seed in seeds))
    loaded = load_prompts(
        tokenizer, Data(**{part: rows(path=str(path), prompt="q") for part, path in files.items()}), 100
    )
    assert [prompt.row["seed"] for prompt in (*loaded.train, *loaded.eval)] == [1, 2, 3]


def drafts(path: Path, *labels: Any) -> Data:
    """Rows with a given draft, and whether it is right."""
    lines = [{"q": f"{n}+1", "a": "2", "draft": {"right": label}} for n, label in enumerate(labels)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return Data(train=rows(path=str(path), balanced_by="draft.right"))


def test_rows_are_balanced_by_a_column(tokenizer, tmp_path):
    loaded = load_prompts(tokenizer, drafts(tmp_path / "a.jsonl", True, False, True, True, False), 100)
    assert list(loaded.labels.values()) == [True, False, True, True, False]
    assert (loaded.in_an_epoch, len(loaded.train)) == (4, 5)
    assert loaded.counts == (4, [], 0)
    loaded.check_step(6)
    with pytest.raises(RecipeError) as caught:
        loaded.check_step(7)
    assert str(caught.value) == (
        "rollout.prompts_per_step: 7, but data.train.balanced_by: draft.right has 2 values, of which each step has "
        "equally many; give a multiple of 2"
    )
    plain = load_prompts(tokenizer, Data(train=rows(path=str(tmp_path / "a.jsonl"))), 100)
    assert plain.counts == (5, [], 0)
    plain.check_step(7)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ((True, None), "train:1 has no label, its 'draft.right' is None"),
        ((True, ""), "train:1 has no label, its 'draft.right' is ''"),
        ((True, float("nan")), "train:1 has no label, its 'draft.right' is nan"),
        ((True, [1]), "'draft.right' of train:1 is [1], expected a single value"),
        ((True, True), "'draft.right' has one value, True, expected 2 to 20"),
        (range(21), "'draft.right' has 21 values, expected 2 to 20"),
    ],
)
def test_labels_that_cannot_be_balanced_are_named(tokenizer, tmp_path, labels, fault):
    with pytest.raises(RecipeError) as caught:
        load_prompts(tokenizer, drafts(tmp_path / "a.jsonl", *labels), 100)
    assert str(caught.value) == f"data.train.balanced_by: {fault}"


def test_a_missing_label_column_is_named_with_the_nearest(tokenizer, tmp_path):
    drafts(file := tmp_path / "a.jsonl", True, False)
    with pytest.raises(RecipeError, match=r"balanced_by: train:0 has no column 'rigt'; did you mean 'right'\?"):
        load_prompts(tokenizer, Data(train=rows(path=str(file), balanced_by="draft.rigt")), 100)
