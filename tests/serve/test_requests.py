from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_model import make_reward_model

from llmrl.request_fields import RequestError
from llmrl.serve.model import ServedModel
from llmrl.serve.requests import pooling_rows, score_rows

KEYS = ["texts", "messages", "prompt", "completion", "input", "role", "content", "tool_calls", "function", "arguments"]
WORDS = st.sampled_from([*KEYS, "user", "assistant", "system", "tool", "1+2", "", "<eos>", "é\ud800"]) | st.text(
    max_size=5
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": WORDS},
        optional={"tool_calls": VALUES, "name": VALUES},
    ),
    max_size=3,
)
BODIES = (
    VALUES
    | st.fixed_dictionaries({"messages": st.lists(MESSAGES, max_size=2)})
    | st.fixed_dictionaries({"prompt": WORDS | st.lists(WORDS, max_size=2), "completion": st.lists(WORDS, max_size=2)})
    | st.fixed_dictionaries({"texts": st.lists(WORDS, max_size=3)})
    | st.fixed_dictionaries({"input": st.lists(WORDS, max_size=3) | WORDS})
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ServedModel(make_reward_model(tmp_path_factory.mktemp("rm")))


@given(body=BODIES)
def test_any_json_is_rows_of_tokens_or_a_fault_that_can_be_sent(model, body):
    for read in (score_rows, pooling_rows):
        try:
            rows = read(body, model)
        except RequestError as error:
            assert error.field and error.expected and error.status in (400, 413)
            json.dumps(error.message)
        else:
            assert rows and all(0 < len(row) <= model.max_tokens for row in rows)
