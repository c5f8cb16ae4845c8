"""Sources that ask questions which no row asks: prompts that evolve, and answers of a quality that is asked for."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scripted import on_two_ranks, piece

from llmrl.data.packing import pack
from llmrl.data.prompts import LoadedPrompts, load_prompts
from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.envs.single_turn import single_turn
from llmrl.errors import RecipeError, RunStopped
from llmrl.models.loading import character_tokenizer
from llmrl.models.text import decoder
from llmrl.pieces import resolve
from llmrl.recipe import Rollout
from llmrl.recipe_rows import Data, Rows
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams, derive_seed
from llmrl.rollout.selection import everything
from llmrl.train.evolved_prompts import Evolution
from llmrl.train.prompted_pairs import gap_at
from llmrl.train.sources import CATALOGUE
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

TOKENIZER = character_tokenizer("0123456789>/+ \n")
EOS: Any = TOKENIZER.eos_token_id
Rule = Callable[[str, int], str]


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    return [{"question": f"{seed}{n}>", "answer": str(n), "kind": n % 2} for n in range(size)]


def loaded(**keys: Any) -> LoadedPrompts:
    train = Rows(task=f"{__name__}:questions", size=6, seed=1, shuffle=False, **keys)
    return load_prompts(TOKENIZER, Data(train=train), 8)


class Scripted:
    """Replies to a text by a rule, which also gets the seed."""

    policy_version = 3
    takes_adapter = False

    def __init__(self, rule: Rule):
        self.rule = rule
        self.asked: list[tuple[str, SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        text = str(TOKENIZER.decode(token_ids))
        self.asked.append((text, params))
        reply = TOKENIZER.encode(self.rule(text, params.seed), add_special_tokens=False)
        ended = len(reply) < params.max_tokens
        tokens = [*reply, EOS] if ended else reply[: params.max_tokens]
        return Completion(tokens, [-0.5] * len(tokens), "stop" if ended else "length", self.policy_version)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class BySeed:
    """Rewards the answers whose text is even."""

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        for one in group.trajectories:
            one.reward = float(one.text.strip() in ("0", "2", "4", "6", "8"))


def collector(rule: Rule, scorer: Any = None, **settings: Any) -> Collector:
    text = AuthorText(lambda text, *, special=False: TOKENIZER.encode(text), decoder(TOKENIZER, [EOS]))
    author = Author(Scripted(rule), scorer or BySeed(), text)
    return Collector({ACTOR: author}, make_env=piece(single_turn), deadline_seconds=20.0, **settings)


def source(spec: dict, prompts: LoadedPrompts, made: Collector, *, count: int = 4) -> Any:
    rollout = Rollout(prompts_per_step=count, group_size=4, max_completion_tokens=6)
    available = {
        "stream": PromptStream(prompts.train, 0, False),
        "collector": made,
        "sample_groups": Evenly(made, 4),
        "keep": {ACTOR: piece(everything)},
        "rollout": rollout,
        "params": lambda seed: SamplingParams(6, seed=seed, stop_token_ids=(EOS,)),
        "asker": prompts.asker,
        "author": ACTOR,
    }
    return resolve(spec, CATALOGUE, key="learn_from", what="source")(available)


def saved(one: Any) -> Any:
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    return torch.load(io.BytesIO(file.getvalue()))


# prompts that evolve


def rewarded(name: str, *rewards: float) -> Group:
    prompt = Prompt(name, (1,), name, {})
    return Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [5])], "stop", reward=reward) for reward in rewards])


def test_parents_are_drawn_in_proportion_to_what_they_tell():
    groups = [rewarded("a", 0, 3), rewarded("b", 0, 1), rewarded("same", 1, 1), rewarded("low", -9, -1)]
    evolution = Evolution("{prompt}", None, 1, 1, "range", 0.5, 9, 1.0)
    drawn = Counter(evolution.drawn(groups, seed)[0].id for seed in range(400))
    assert drawn.keys() == {"a", "b"}  # no sample of "low" earns more than 0.5
    assert 0.68 < drawn["a"] / 400 < 0.82  # 3 / 4
    every = Evolution("{prompt}", None, 9, 1, "range", None, 9, 1.0)
    assert sorted(one.id for one in every.drawn(groups, 5)) == ["a", "b", "low"]


def by_kind(text: str, seed: int) -> str:
    """Answers a question with a digit; rewrites one as another, at times too long or empty."""
    if not text.startswith("/"):
        return str(seed % 10)
    return ("9" + text[2:], "", "12345678>")[seed % 3] if len(text) < 8 else ""


def evolving(prompts: LoadedPrompts, made: Collector, **settings: Any) -> Any:
    return source({"evolved_prompts": {"rubric": "/{prompt}", "parents": 4, "children": 2, **settings}}, prompts, made)


def test_prompts_evolve_and_are_asked_beside_the_datas():
    prompts, made = loaded(), collector(by_kind)
    one = evolving(prompts, made)
    first = one.collect(7)
    assert [group.prompt.id for group in first.groups] == ["train:0", "train:1", "train:2", "train:3"]
    count = first.metrics["evolved/made"]
    assert count == first.metrics["evolved/waiting"] > 0
    parents = (count + first.metrics["evolved/refused"]) / 2
    told = [group for group in first.groups if len({t.reward for t in group.trajectories}) > 1]
    assert parents == len(told)  # those whose samples differ
    second = one.collect(8)
    asked = [group.prompt for group in second.groups]
    evolved = [prompt for prompt in asked if " of " in prompt.id]
    assert len(evolved) == min(2, count)
    assert second.metrics["evolved/asked"] == len(evolved) / 4
    for prompt in evolved:
        assert prompt.text[0] == "9"
        assert prompt.token_ids == tuple(TOKENIZER.encode(prompt.text))
        row = next(p.row for p in prompts.train if p.id == prompt.id.rpartition(" of ")[2])
        assert "answer" not in prompt.row
        assert prompt.row["kind"] == row["kind"]
    assert [prompt.id for prompt in asked if prompt not in evolved] == ["train:4", "train:5", "train:0"][
        : 4 - len(evolved)
    ]


def test_a_resumed_source_asks_and_rewrites_the_same():
    prompts = loaded()
    whole = evolving(prompts, collector(by_kind))
    whole.collect(7)
    again = evolving(loaded(), collector(by_kind))
    again.load_state_dict(saved(whole))
    for seed in (8, 9, 10):
        expected, found = whole.collect(seed), again.collect(seed)
        assert [g.prompt for g in found.groups] == [g.prompt for g in expected.groups]
        assert [[t.text for t in g.trajectories] for g in found.groups] == [
            [t.text for t in g.trajectories] for g in expected.groups
        ]
        assert found.metrics["evolved/waiting"] == expected.metrics["evolved/waiting"]
    assert saved(again) == saved(whole)


def test_a_question_that_waits_already_is_not_made_twice_and_the_oldest_are_dropped():
    made = collector(lambda text, seed: "9>" if text.startswith("/") else str(seed % 10))
    one = evolving(loaded(), made, share=0.0)
    assert one.collect(7).metrics["evolved/made"] == 1
    assert one.collect(8).metrics["evolved/made"] == 0
    numbered = collector(lambda text, seed: f"9{seed % 97}>" if text.startswith("/") else str(seed % 10))
    small = evolving(loaded(), numbered, share=0.0, pool=2)
    small.collect(7)
    first = [prompt.text for prompt in small.waiting]
    small.collect(8)
    assert len(small.waiting) == 2
    assert [prompt.text for prompt in small.waiting] != first


def test_a_reward_that_reads_the_gold_answer_and_an_unknown_role_are_refused():
    with Workers(1) as workers:
        rewards = Rewards.from_specs({"exact_match": {}}, workers=workers)
        with pytest.raises(RecipeError, match=r"but rewards.exact_match reads the column 'answer'"):
            evolving(loaded(), collector(by_kind, rewards))
    with pytest.raises(RecipeError, match=r"evolved_prompts.role: no role named 'actr'; did you mean 'actor'"):
        evolving(loaded(), collector(by_kind), role="actr")


# pairs that are asked for


def test_the_gap_shrinks_and_then_stays():
    assert [gap_at(step, 8.0, 2.0, 3) for step in range(5)] == [8, 6, 4, 2, 2]


def of_quality(text: str, seed: int) -> str:
    """The quality that was asked for, and 4 for the first question; too long for the second."""
    quality, _, question = text.partition("/")
    return "1234567" if question == "11>" else "4" if question == "10>" else quality


def prompting(made: Collector, **settings: Any) -> Any:
    spec = {"rubric": "{quality}/{prompt}", "best": 9, "gap": 8, "last_gap": 2, "shrinks_over": 3, **settings}
    return source({"prompted_pairs": spec}, loaded(), made)


def test_an_answer_that_was_asked_to_be_better_is_chosen_for_the_plain_question():
    one = prompting(collector(of_quality))
    found = one.collect(7)
    assert [group.prompt.text for group in found.groups] == ["12>", "13>"]  # those of 10 are equal, of 11 cut short
    for group in found.groups:
        assert [(t.text, t.reward, t.prompt) for t in group.trajectories] == [
            ("9", 1.0, group.prompt), ("1", 0.0, group.prompt),
        ]  # fmt: skip
    assert found.metrics == {"prompted/gap": 8, "prompted/pairs": 0.5, "completion_tokens": 2}
    packed = pack(found.groups, ACTOR)
    assert not packed.rollout_logprobs.any()  # nobody sampled them after this prompt
    assert TOKENIZER.decode(packed.token_ids[0][:3]) == "12>"
    texts = [text for text, _ in one.collector.authors[ACTOR].sampler.asked]
    assert sorted(texts)[:4] == ["1/10>", "1/11>", "1/12>", "1/13>"]
    assert sorted(texts)[4:] == ["9/10>", "9/11>", "9/12>", "9/13>"]


def test_the_gap_goes_on_where_it_was():
    one = prompting(collector(of_quality))
    one.collect(7)
    again = prompting(collector(of_quality))
    again.load_state_dict(saved(one))
    found = again.collect(8)
    assert found.metrics["prompted/gap"] == 6
    assert found.groups[0].prompt.text == "14>"
    assert [t.text for t in found.groups[0].trajectories] == ["9", "3"]


def test_a_step_without_a_pair_says_why_and_a_rubric_asks_for_a_quality():
    with pytest.raises(RunStopped, match="made no pair of 4 prompts: answers were cut short or equal"):
        prompting(collector(lambda text, seed: "5")).collect(1)
    with pytest.raises(RecipeError, match=r"does not have \{quality\}"):
        prompting(collector(of_quality), rubric="{prompt}")


def test_texts_are_written_alike_on_two_ranks():
    prompts = loaded()
    params = SamplingParams(6, seed=5, stop_token_ids=(EOS,))

    def run(rank: int, gather: Any) -> list[str]:
        made = collector(lambda text, seed: text[:2] + str(seed % 100), rank=rank, ranks=2, gather=gather)
        return [one.text for one in made.write(prompts.train, params)]

    alone = collector(lambda text, seed: text[:2] + str(seed % 100)).write(prompts.train, params)
    seeds = [derive_seed(5, "write", place) % 100 for place in range(6)]
    assert [one.text for one in alone] == [f"1{n}{seed}" for n, seed in enumerate(seeds)]
    assert on_two_ranks(run) == [[one.text for one in alone]] * 2


def test_a_question_that_no_row_asks_is_rendered_as_the_rows_are():
    rows = Rows(task=f"{__name__}:questions", size=6, few_shot=1)
    prompts = load_prompts(TOKENIZER, Data(train=rows), 12)
    asker, first = prompts.asker, prompts.train[0]
    assert asker
    shown = asker.ask("77>", first, "x")
    assert shown
    assert (shown.id, shown.text) == ("x", first.text.replace("01>", "77>"))
    assert dict(shown.row) == {"question": "01>", "kind": 1, "asked": "77>"}
    assert (asker.question(shown), asker.question(first)) == ("77>", "01>")
    assert [asker.ask(text, shown, "y") for text in (" ", "?", "123456>")] == [None, None, None]  # the last is too long
