"""Weight transports: by whichever way they come, the sampler has the trainer's weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sampler_contract import PROMPTS, sample_all
from torch import Tensor

from llmrl.models.loading import load_language_model
from llmrl.models.weights import merged_weights
from llmrl.rollout.sampler import SamplingParams
from llmrl.rollout.transformers_sampler import TransformersSampler
from llmrl.rollout.weight_transport import by_file, by_name


def make(folder: Path, tokenizer: Any) -> TransformersSampler:
    model: Any = load_language_model(folder)
    return TransformersSampler(model, tokenizer)


@pytest.mark.parametrize("transport", [by_name, by_file])
def test_the_sampler_has_the_weights_that_were_sent(transport, folder, tokenizer, lm, other_lm, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sampler = make(folder, tokenizer)
    for version, sent in ((3, lm), (4, other_lm)):
        taken: list[str] = []

        def weights(sent: Any = sent, taken: list[str] = taken) -> Iterator[tuple[str, Tensor]]:
            for name, weight in merged_weights(sent):
                taken.append(name)
                yield name, weight

        transport(weights(), sampler, version)
        assert taken == [name for name, _ in merged_weights(sent)]  # every rank has to consume them all
        assert sampler.policy_version == version
        found, expected = dict(sampler._model.named_parameters()), dict(sent.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(tmp_path.iterdir()) == []  # nothing is left on disk


def test_both_ways_sample_the_same(folder, tokenizer, other_lm):
    said = []
    for transport in (by_name, by_file):
        sampler = make(folder, tokenizer)
        transport(merged_weights(other_lm), sampler, 1)
        said.append([(c.token_ids, c.logprobs) for c in sample_all(sampler, PROMPTS[:3], SamplingParams(max_tokens=6))])
    assert said[0] == said[1]


@pytest.mark.parametrize("transport", [by_name, by_file])
def test_a_weight_that_is_missing_is_an_error_either_way(transport, folder, tokenizer, lm):
    weights = [(name, weight) for name, weight in merged_weights(lm) if "embed" not in name]
    with pytest.raises(RuntimeError, match=r"1 weights were not given, model\.embed_tokens\.weight"):
        transport(iter(weights), make(folder, tokenizer), 1)
