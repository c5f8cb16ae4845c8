"""Guided sampling against a reference that reads every candidate's whole text, without keys and values kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from sampler_contract import PROMPTS, language_model, policy_logprobs, sample_all
from transformers import Qwen3ForSequenceClassification

from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.models.loading import load_language_model
from llmrl.ops import guidance
from llmrl.pieces import catalogue, resolve
from llmrl.recipe_rollout import Guide as Settings
from llmrl.recipe_rollout import RollIn, Search
from llmrl.rollout.guides import load_guide, roll_in_length
from llmrl.rollout.readings import reading_of
from llmrl.rollout.sampler import Completion, Guiding, SamplingParams, derive_seed
from llmrl.rollout.search_scores import load_score
from llmrl.rollout.transformers_sampler import TransformersSampler
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

PARAMS = SamplingParams(max_tokens=5)
ASKED = PROMPTS[1:5]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def values(folder, tokenizer, tmp_path_factory) -> Path:
    """A reward model whose scores are far apart."""
    torch.manual_seed(5)
    model: Any = Qwen3ForSequenceClassification.from_pretrained(str(folder), num_labels=1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
        model.score.weight.mul_(4.0)
    made = tmp_path_factory.mktemp("guides") / "values"
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def other(folder, tokenizer, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("guides") / "other"
    language_model(folder, seed=2).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def lm(folder) -> Any:
    return language_model(folder, seed=1)


@pytest.fixture(scope="module")
def plain(lm, folder, tokenizer) -> TransformersSampler:
    made = TransformersSampler(load_language_model(folder), tokenizer)  # pyright: ignore
    made.load_weights(lm.state_dict().items(), 3)
    return made


def guided(plain: TransformersSampler, tokenizer: Any, **settings: Any) -> Any:
    assert isinstance(plain, Guiding)
    return plain.guided_by(load_guide(Settings(**settings), tokenizer, CPU, key="rollout.guide"), None)


@torch.no_grad()
def whole(model: Any, token_ids: list[int]) -> torch.Tensor:
    """The logits, or the score, at the last token, of the text alone in its batch."""
    ids = torch.tensor([token_ids])
    if hasattr(model, "score"):
        return model.score(model.model(input_ids=ids).last_hidden_state[0, -1])
    return model(input_ids=ids).logits[0, -1].float()


def naive(lm: Any, model: Any, prefix: list[int], settings: Settings, reference: Any = None) -> torch.Tensor:
    """The guided log-probabilities of all tokens after a prefix."""
    reading = resolve(settings.reading, catalogue(guidance), key="", what="")
    own = whole(lm, prefix).log_softmax(-1)
    logprobs, tokens = own.topk(settings.top_k)
    data: dict[str, torch.Tensor] = {"own_logprobs": logprobs[None]}
    if hasattr(model, "score"):
        data["outputs"] = torch.stack([whole(model, [*prefix, int(token)]) for token in tokens])[None]
        data["before"] = whole(model, prefix)[None]
    else:
        found = whole(model, prefix)
        data["outputs"] = found[tokens][None, :, None]
        data["logprobs"] = found.log_softmax(-1)[tokens][None, :, None]
    if reference is not None:
        data["ref_logprobs"] = whole(reference, prefix).log_softmax(-1)[tokens][None]
    changed = torch.full_like(own, -torch.inf)
    changed[tokens] = logprobs + reading(data)[0]
    return changed.log_softmax(-1)


READINGS = [
    ("values", {"success": {"inverse_temperature": 4.0}}, None),
    ("values", {"value_ratio": {"temperature": 0.25}}, None),
    ("other", {"action_value": {"weight": 0.5}}, None),
    ("other", {"implicit_reward": {"weight": 2.0}}, "folder"),
    ("other", {"mixture": {"weights": [0.5]}}, None),
]


@pytest.mark.parametrize(("model", "reading", "reference"), READINGS, ids=lambda one: str(one))
def test_tokens_and_logprobs_are_of_the_guided_distribution(
    lm, plain, tokenizer, values, other, folder, model, reading, reference
):
    path = {"values": values, "other": other}[model]
    named = {"model": str(path), "reading": reading, "top_k": 6, "reference": str(folder) if reference else None}
    settings = Settings(**named)
    sampler = guided(plain, tokenizer, **named)
    made: Any = (
        Qwen3ForSequenceClassification.from_pretrained(str(path), num_labels=1)
        if model == "values"
        else load_language_model(path)
    )
    ref: Any = load_language_model(folder) if reference else None
    moved = 0.0
    for prompt, found in zip(ASKED, sample_all(sampler, ASKED, PARAMS), strict=True):
        alone = policy_logprobs(lm, prompt, found.token_ids)
        for place, token in enumerate(found.token_ids):
            expected = naive(lm, made.eval(), prompt + found.token_ids[:place], settings, ref)
            assert found.logprobs[place] == pytest.approx(float(expected[token]), abs=2e-4)
            moved = max(moved, abs(found.logprobs[place] - float(alone[place])))
        assert found.policy_version == 3
    assert moved > 0.1
    [prompt] = ASKED[:1]
    [greedy] = sample_all(sampler, [prompt], SamplingParams(max_tokens=3, temperature=0.0))
    for place, token in enumerate(greedy.token_ids):
        assert token == int(naive(lm, made, prompt + greedy.token_ids[:place], settings, ref).argmax())


def test_the_sampler_alone_is_left_as_it_is(plain, tokenizer, values):
    """An evaluation has a guide of its own, here none, and candidates stay within those of top_p."""
    sampler = guided(plain, tokenizer, model=str(values), reading="success", top_k=5)
    evaluating = SamplingParams(max_tokens=5, evaluating=True)
    assert sample_all(sampler, ASKED, evaluating) == sample_all(plain, ASKED, evaluating)
    assert sample_all(sampler, ASKED, PARAMS) != sample_all(plain, ASKED, PARAMS)
    narrow = SamplingParams(max_tokens=3, top_k=1)
    assert sample_all(sampler, ASKED, narrow) == sample_all(plain, ASKED, narrow)


def test_a_roll_in_hands_over_at_a_place_that_the_seed_decides(lm, plain, tokenizer, values):
    """Tokens of the guide up to the place, then those of the sampler alone with their own log-probabilities."""
    settings: dict[str, Any] = {"model": str(values), "reading": {"success": {"inverse_temperature": 30.0}}, "top_k": 3}
    rolling = guided(plain, tokenizer, roll_in=True, **settings)
    whole_way = guided(plain, tokenizer, **settings)
    both = zip(ASKED * 3, sample_all(rolling, ASKED * 3, PARAMS), sample_all(whole_way, ASKED * 3, PARAMS), strict=True)
    lengths = set()
    for place, (prompt, found, full) in enumerate(both):
        length = roll_in_length(SamplingParams(max_tokens=5, seed=derive_seed(0, place)), RollIn(), 0)
        lengths.add(length)
        assert found.token_ids[:length] == full.token_ids[:length]
        own = policy_logprobs(lm, prompt, found.token_ids)[length:]
        torch.testing.assert_close(torch.tensor(found.logprobs[length:]), own, atol=1e-4, rtol=0)
    assert len(lengths) > 2


def test_the_tokens_of_a_roll_in_may_be_context(plain, tokenizer, other):
    """A stronger model begins a share of the answers; a batch trains on what the policy wrote after it."""
    settings: dict[str, Any] = {"model": str(other), "reading": {"mixture": {"weights": [1.0]}}, "top_k": 99}
    rolled = {"share": 0.5, "fades_over": 20, "learned": False}
    made = sample_all(guided(plain, tokenizer, **settings, roll_in=rolled), ASKED * 4, PARAMS)
    seeds = [SamplingParams(max_tokens=5, seed=derive_seed(0, place)) for place in range(16)]
    lengths = [roll_in_length(one, RollIn(**rolled), 3) for one in seeds]
    assert [one.given for one in made] == [min(n, len(one.token_ids)) for n, one in zip(lengths, made, strict=True)]
    assert len(set(lengths)) > 2 and lengths.count(0) > 4
    many = [SamplingParams(max_tokens=5, seed=seed) for seed in range(1000)]
    for step, share in ((0, 0.5), (10, 0.25), (20, 0.0), (30, 0.0)):  # one in six of them is of length 0
        begun = sum(roll_in_length(one, RollIn(**rolled), step) > 0 for one in many)
        assert begun == pytest.approx(1000 * share * 5 / 6, abs=45)
    prompt = Prompt("p", tuple(ASKED[0]), "?", {})
    turn = Turn(ACTOR, made[0].token_ids, made[0].logprobs, given=2)
    batch = pack([Group(prompt, [Trajectory(prompt, [turn], "stop", reward=1.0)])], ACTOR)
    after = len(ASKED[0])
    assert batch.response_mask[0].tolist() == [False] * (after + 2) + [True] * (len(made[0].token_ids) - 2)
    assert batch.rewards[0, -1] == 1.0 and batch.token_ids[0, after:].tolist() == made[0].token_ids


def test_one_row_does_not_depend_on_its_batch(plain, tokenizer, values):
    sampler = guided(plain, tokenizer, model=str(values), reading="success", top_k=4)
    together: list[Completion] = sample_all(sampler, ASKED, PARAMS)
    [alone] = sample_all(sampler, ASKED[:1], PARAMS)
    assert alone.token_ids == together[0].token_ids
    assert alone.logprobs == pytest.approx(together[0].logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reading": "sucess"}, "rollout.guide.reading: .*'sucess'; did you mean 'success'"),
        ({"reading": "implicit_reward"}, "rollout.guide.reference: needs the model"),
        ({"reference": "x"}, "rollout.guide.reference: is unused"),
        ({"model": ["a", "b"]}, "rollout.guide.model: 2 models, but reading success reads one"),
    ],
)
def test_settings_that_do_not_fit_are_faults(changed, words):
    with pytest.raises(RecipeError, match=words):
        reading_of(Settings(**{"model": "a", "reading": "success"} | changed), "rollout.guide")


def test_folders_that_do_not_fit_are_faults(tokenizer, values, other):
    for settings, words in (
        ({"model": str(values), "reading": {"mixture": {"weights": [0.5]}}}, "is a reward model, expected a language"),
        ({"model": str(other), "reading": "value_ratio"}, "reads the value before a token"),
        ({"model": str(values), "reading": "return_distribution"}, "at least 2"),
        ({"model": str(other), "reading": {"mixture": {"weights": [0.5, 0.2]}}}, "2 for 1 models"),
    ):
        with pytest.raises(RecipeError, match=words):
            load_guide(Settings(**settings), tokenizer, CPU, key="rollout.guide")


@torch.no_grad()
def test_a_search_is_scored_by_a_reward_model_or_by_log_ratios(tokenizer, values, other, folder):
    prompt, answers = ASKED[0], [[5, 6, 7], [9]]
    model: Any = Qwen3ForSequenceClassification.from_pretrained(str(values), num_labels=1)
    found = asyncio.run(load_score(Search(model=str(values)), tokenizer, "evaluation.search")(prompt, answers))
    assert found == pytest.approx([float(whole(model.eval(), prompt + one)) for one in answers], abs=1e-4)
    dpo = Search(model=str(other), reference=str(folder))
    found = asyncio.run(load_score(dpo, tokenizer, "evaluation.search")(prompt, answers))
    pair: list[Any] = [load_language_model(path) for path in (other, folder)]
    sums = [[float(policy_logprobs(one, prompt, answer).sum()) for one in pair] for answer in answers]
    assert found == pytest.approx([own - ref for own, ref in sums], abs=1e-3)
    for search, words in (
        (Search(model=str(other)), "is a language model, whose log ratio"),
        (Search(model=str(values), reference=str(folder)), "is a reward model, which has no reference"),
        (Search(model="nowhere"), "evaluation.search.model: 'nowhere' is no folder of a model"),
    ):
        with pytest.raises(RecipeError, match=words):
            load_score(search, tokenizer, "evaluation.search")
