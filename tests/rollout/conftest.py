"""A tiny model with a tied head, its weights large enough that its distributions are far from uniform."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

pytest.register_assert_rewrite("sampler_contract")

from sampler_contract import CHARACTERS, CONFIG, LONGER, language_model  # noqa: E402

from llmrl.models.loading import load_tokenizer  # noqa: E402
from llmrl.models.origins import materialize  # noqa: E402
from llmrl.recipe import Build, Model  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is faster without threads, on a busy machine by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    spec = Model(build=Build(architecture="qwen3", config=CONFIG, characters=CHARACTERS))
    made = materialize(spec, tmp_path_factory.mktemp("rollout") / "model", 0)
    file = made / "tokenizer.json"
    known = json.loads(file.read_text())
    vocabulary = known["model"]["vocab"]
    for text, longer in LONGER.items():
        vocabulary[longer] = vocabulary.pop(text)
    file.write_text(json.dumps(known))
    return made


@pytest.fixture(scope="session")
def tokenizer(folder) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def lm(folder) -> PreTrainedModel:
    """The trainer's model, whose weights every sampler test starts from."""
    return language_model(folder, seed=1)


@pytest.fixture(scope="session")
def other_lm(folder) -> PreTrainedModel:
    """The same model some updates later."""
    return language_model(folder, seed=2)
