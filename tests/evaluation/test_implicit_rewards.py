"""Implicit token rewards: the telescoping sum, a corrupted span found after DPO, and both commands on a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from llmrl.cli import main
from llmrl.data.packing import pack
from llmrl.evaluation.implicit_rewards import Credited, credited, load_policy
from llmrl.models.loading import export, load_tokenizer
from llmrl.models.origins import materialize
from llmrl.models.policy import Policy
from llmrl.recipe import Model
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

CHARACTERS, BETA = "abcdefgh:", 0.1
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 32, "initializer_range": 0.1,
}  # fmt: skip


def alphabet(start: int) -> str:
    """Eight letters in order, from one of them round to it."""
    return "".join("abcdefgh"[(start + n) % 8] for n in range(8))


def corrupted(text: str, place: int) -> str:
    """The text with another letter in a place; neither that letter nor the next one follows from the one before."""
    return text[:place] + "abcdefgh"[("abcdefgh".index(text[place]) + 4) % 8] + text[place + 1 :]


def group(tokenizer: Any, start: int, place: int) -> Group:
    prompt = Prompt(f"p{start}", tuple(tokenizer.encode(f"{alphabet(start)[0]}:")), "", {})
    texts = alphabet(start), corrupted(alphabet(start), place)
    rows = [Trajectory(prompt, [Turn(ACTOR, tokenizer.encode(text))], "stop", text) for text in texts]
    rows[0].reward, rows[1].reward = 1.0, 0.0
    return Group(prompt, rows, ACTOR)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A start, and a policy that DPO has taught to prefer letters in order over those with a corrupted place."""
    folder = tmp_path_factory.mktemp("models")
    start = materialize(
        Model.model_validate({"build": {"characters": CHARACTERS, "config": SIZES}}), folder / "start", 0
    )
    tokenizer, generator = load_tokenizer(start), torch.Generator().manual_seed(0)
    policy, reference = (Policy(AutoModelForCausalLM.from_pretrained(start)) for _ in range(2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(30):
        places = torch.randint(0, 6, (16,), generator=generator).tolist()
        batch = pack([group(tokenizer, n % 8, place) for n, place in enumerate(places)], ACTOR)
        inputs, wanted = (batch.token_ids, batch.attention_mask, batch.response_mask), frozenset({"logprobs"})
        with torch.no_grad():
            before = reference(*inputs, wanted=wanted)["logprobs"]
        sums = ((policy(*inputs, wanted=wanted)["logprobs"] - before) * batch.response_mask).sum(dim=1)
        loss = -logsigmoid(BETA * (sums[0::2] - sums[1::2])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    export(policy.lm, tokenizer, folder / "policy")
    return folder / "policy", start


def test_the_rewards_add_up_to_the_log_ratio_and_find_the_corrupted_span(models):
    folder, start = models
    tokenizer = load_tokenizer(folder)
    groups = [group(tokenizer, begin, place) for begin in range(8) for place in range(6)]
    policy, reference = (load_policy("--policy", str(path)) for path in (folder, start))
    found = credited(groups, policy, reference, tokenizer, beta=BETA)
    token_ids = torch.tensor([[*groups[9].prompt.token_ids, *groups[9].trajectories[1].turns[0].token_ids]])
    with torch.no_grad():
        both = [model.lm(token_ids).logits[0, 1:-1].log_softmax(-1) for model in (policy, reference)]
    ratios = (both[0] - both[1]).gather(1, token_ids[0, 2:, None])[:, 0]
    assert found[9][1].rewards == pytest.approx((BETA * ratios).tolist(), abs=1e-5)
    assert found[9][1].total == pytest.approx(BETA * float(ratios.sum()), abs=1e-5)
    places = [place for _ in range(8) for place in range(6)]
    hits = [one[1].lowest(1).start in (place, place + 1) for one, place in zip(found, places, strict=True)]
    assert sum(hits) >= 0.9 * len(hits)  # 2 of 8 tokens by chance
    assert all(chosen.total > rejected.total for chosen, rejected in found)


def test_the_lowest_span_by_hand():
    one = Credited("", (), 1.0, list("abcde"), [0.1, -0.3, -0.2, -0.4, 0.5])
    assert (one.lowest(1), one.lowest(2), one.lowest(9)) == (range(3, 4), range(2, 4), range(0, 5))


def run(monkeypatch, capsys, *arguments: Any) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["llmrl", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out or captured.err.splitlines()[-1]


def test_the_commands(models, tmp_path, monkeypatch, capsys):
    folder, start = models
    pairs = [(alphabet(n % 8), corrupted(alphabet(n % 8), n % 6)) for n in range(48)]
    pairs[5], pairs[17] = pairs[5][::-1], pairs[17][::-1]
    rows = [{"prompt": f"{'abcdefgh'[n % 8]}:", "chosen": pair[0], "rejected": pair[1]} for n, pair in enumerate(pairs)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = "--policy", folder, "--reference", start
    code, said = run(monkeypatch, capsys, "audit", tmp_path / "pairs.jsonl", *named, "--json")
    assert code == 0 and json.loads(said)["flagged"] == [5, 17]
    code, said = run(monkeypatch, capsys, "audit", tmp_path / "pairs.jsonl", *named)
    assert "48 pairs; the model contradicts 4.2% of the labels\n2 pairs are flagged; " in said
    page = tmp_path / "page.html"
    code, said = run(monkeypatch, capsys, "credit", tmp_path / "pairs.jsonl", *named, "--limit", 2, "--html", page)
    assert code == 0 and said.count("implicit reward") == 4
    assert page.read_text().count("<p>") == 4
    code, said = run(monkeypatch, capsys, "credit", tmp_path / "none.jsonl", *named)
    assert (code, said.startswith("llmrl: SOURCE: no file or folder")) == (2, True)
