"""Engines by name, and the user's own."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from training_cases import make_training, tiny_policy

from llmrl.engines.catalogue import ENGINES, engine_kind, make_engine, start_process_group
from llmrl.engines.torch_engine import TorchEngine
from llmrl.errors import RecipeError

CPU = torch.device("cpu")
OWN = """
from llmrl.engines.torch_engine import TorchEngine

class Mine(TorchEngine):
    pass

def half(model, training, device):
    return Mine(model, training.model_copy(update={"learning_rate": training.learning_rate / 2}), device)
"""


def test_an_engine_is_chosen_by_name():
    assert type(make_engine("torch", tiny_policy(), make_training(), CPU)) is TorchEngine
    assert [name for name, kind in ENGINES.items() if kind.several] == ["deepspeed", "accelerate"]


def test_a_misspelt_engine_is_a_fault_that_names_the_nearest():
    with pytest.raises(RecipeError, match=r"training.strategy: no engine named 'acelerate'; did you mean 'accelerate'"):
        engine_kind("acelerate")


def test_an_engine_may_be_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_engines.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for strategy in ("my_engines:Mine", "my_engines:half"):
        assert type(make_engine(strategy, tiny_policy(), make_training(), CPU)).__name__ == "Mine"
        assert engine_kind(strategy).several
    with pytest.raises(RecipeError, match=r"training.strategy: cannot import 'my_engines:Yours'"):
        make_engine("my_engines:Yours", tiny_policy(), make_training(), CPU)


def test_one_process_needs_no_group_of_processes():
    assert start_process_group(["torch", "torch"], CPU) is False
    assert not dist.is_initialized()
