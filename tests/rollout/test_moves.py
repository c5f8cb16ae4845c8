"""Moves: trees of texts that several roles write, their contexts, groups, scores and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from scripted import piece

from llmrl.data.packing import pack
from llmrl.envs.base import AuthorText
from llmrl.envs.single_turn import single_turn
from llmrl.errors import RunStopped
from llmrl.ops.allocation import by_difficulty
from llmrl.recipe_moves import Move, most_texts
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Allocated, Evenly
from llmrl.rollout.moves import Asked
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams, derive_seed
from llmrl.types import DATASET, Group, Prompt, Score, Trajectory

Said = Callable[[str, int], str]
"""The answer to a context, by the number of times that the context was asked before."""


def encode(text: str, *, special: bool = False) -> list[int]:
    return list(text.encode())


TEXT = AuthorText(
    encode,
    lambda tokens: bytes(tokens).decode(),
    lambda messages: encode("|".join(f"{one['role'][0]}:{one['content']}" for one in messages) + "|a:"),
    256,
    encode,
    tuple(b"."),
)


class Speaker:
    """Says what a function makes of the context, and notes what it was asked."""

    policy_version = 3
    takes_adapter = False

    def __init__(self, says: Said):
        self.says = says
        self.asked: list[tuple[str, SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        context = bytes(token_ids).decode()
        before = sum(context == one for one, _ in self.asked)
        self.asked.append((context, params))
        await asyncio.sleep((derive_seed(context, before) % 5) / 1000)
        tokens = encode(self.says(context, before))[: params.max_tokens]
        return Completion(tokens, [-0.5] * len(tokens), "stop", 3)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def workers():
    found = Workers(1)
    yield found
    found.close()


class Exact:
    """The verdict of a text: whether the gold answer is its last character. All others wait for `begin`."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def begin(self, group: Group) -> None:
        for trajectory in group.trajectories:
            if trajectory.judged:
                continue
            trajectory.judged = True
            self.begun.append(trajectory.node)
            right = trajectory.text[-1:] == trajectory.prompt.row["answer"]
            trajectory.scores["exact"] = Score(float(right), right, feedback=f"ends with {trajectory.text[-1:]}")

    async def score(self, group: Group) -> None:
        for trajectory in group.trajectories:
            trajectory.reward = trajectory.scores["exact"].value


PLAIN = Prompt("train:0", tuple(encode("3+4=")), "3+4=", {"question": "3+4=", "answer": "7", "drafts": ["6", "7", "5"]})
CHAT = Prompt("train:1", tuple(encode("u:3+4=|a:")), "u:3+4=|a:", PLAIN.row, ({"role": "user", "content": "3+4="},))
REFINE: dict[str, dict[str, Any]] = {
    "draft": {"by": "actor"},
    "critique": {"by": "critiquer", "of": "draft", "samples": 2, "ask": "{question}{draft}?"},
    "refinement": {"by": "actor", "of": "critique", "ask": "{prompt}{draft}?{critique}>"},
}


def collector(
    moves: Mapping[str, Mapping[str, Any]],
    actor: Said,
    critiquer: Said,
    *,
    scorers: Mapping[str, Any] | None = None,
    choose: Callable[..., Any] | None = None,
    **settings: Any,
) -> Collector:
    scorers = {"actor": Exact()} if scorers is None else scorers
    authors = {
        name: Author(Speaker(says), scorers.get(name), TEXT)
        for name, says in (("actor", actor), ("critiquer", critiquer))
    }
    asked = [
        Asked(name, Move.model_validate(spec), piece(choose) if choose and spec.get("choose") else None)
        for name, spec in moves.items()
    ]
    return Collector(authors, make_env=piece(single_turn), deadline_seconds=20.0, moves=asked, **settings)


def sample(found: Collector, prompt: Prompt = PLAIN, size: int = 2, **params: Any) -> list[Group]:
    groups = found.sample([prompt], group_size=size, params=SamplingParams(**({"max_tokens": 20, "seed": 5} | params)))
    found.close()
    return groups


def by_node(groups: Sequence[Group]) -> dict[str, Trajectory]:
    return {one.node: one for group in groups for one in group.trajectories}


def asked_of(found: Collector, name: str) -> list[tuple[str, SamplingParams]]:
    sampler = found.authors[name].sampler
    assert isinstance(sampler, Speaker)
    return sampler.asked


def actor(context: str, before: int) -> str:
    """Drafts 6, then 7; refines to 7 after a critique that says no."""
    return str(7 if "no" in context else 6 + before % 2)


def critiquer(context: str, before: int) -> str:
    return ("no", "ok")[before % 2]


def test_a_question_is_answered_by_trees_and_every_text_keeps_the_context_it_was_sampled_in():
    found = collector(REFINE, actor, critiquer)
    groups = sample(found)
    nodes = by_node(groups)
    assert {node: one.text for node, one in nodes.items()} == {
        "0": "6", "0/critique.0": "no", "0/critique.1": "ok",
        "0/critique.0/refinement.0": "7", "0/critique.1/refinement.0": "6",
        "1": "7", "1/critique.0": "no", "1/critique.1": "ok",
        "1/critique.0/refinement.0": "7", "1/critique.1/refinement.0": "6",
    }  # fmt: skip
    assert {node: one.prompt.text for node, one in nodes.items() if node.startswith("0")} == {
        "0": "3+4=",
        "0/critique.0": "3+4=6?", "0/critique.1": "3+4=6?",
        "0/critique.0/refinement.0": "3+4=6?no>", "0/critique.1/refinement.0": "3+4=6?ok>",
    }  # fmt: skip
    assert all(bytes(one.prompt.token_ids).decode() == one.prompt.text for one in nodes.values())
    leaf = nodes["1/critique.1/refinement.0"]
    assert [one.node for one in leaf.path] == ["1", "1/critique.1", "1/critique.1/refinement.0"]
    assert [one.move for one in nodes["0"].below] == ["draft", "critique", "refinement", "critique", "refinement"]
    assert leaf.episode is not None and leaf.episode.number == 1
    assert [one.node for one in leaf.episode.of("critiquer")] == ["1/critique.0", "1/critique.1"]
    assert leaf.turns[0].rollout_logprobs == [-0.5] and leaf.turns[0].policy_version == 3
    assert leaf.prompt.row is PLAIN.row and leaf.prompt.id == PLAIN.id


def compared(groups: Sequence[Group]) -> list[list[str]]:
    return [[one.node for one in group.trajectories] for group in groups]


def test_siblings_are_compared_and_a_move_may_name_a_wider_set():
    assert compared(sample(collector(REFINE, actor, critiquer))) == [
        ["0", "1"],
        ["0/critique.0/refinement.0"], ["0/critique.1/refinement.0"],
        ["1/critique.0/refinement.0"], ["1/critique.1/refinement.0"],
        ["0/critique.0", "0/critique.1"], ["1/critique.0", "1/critique.1"],
    ]  # fmt: skip
    of_draft = REFINE | {"refinement": REFINE["refinement"] | {"compared_within": "draft"}}
    assert compared(sample(collector(of_draft, actor, critiquer)))[1:3] == [
        ["0/critique.0/refinement.0", "0/critique.1/refinement.0"],
        ["1/critique.0/refinement.0", "1/critique.1/refinement.0"],
    ]
    of_all = REFINE | {"refinement": REFINE["refinement"] | {"compared_within": "prompt"}}
    assert len(compared(sample(collector(of_all, actor, critiquer)))[1]) == 4


def test_trees_of_later_rounds_go_beside_the_earlier_ones():
    """The second question is never answered rightly, so an allocation gives it all further drafts."""
    hard = replace(PLAIN, id="train:1", token_ids=tuple(encode("9+9=")), text="9+9=", row={**PLAIN.row, "answer": "-"})
    found = collector(REFINE, actor, critiquer)
    sampled = Allocated(found, piece(by_difficulty), 3, 2, 2, {})([PLAIN, hard], SamplingParams(max_tokens=20, seed=5))
    found.close()
    drafts = [group for group in sampled if group.author == "actor" and not group.trajectories[0].parent]
    assert [[one.node for one in group.trajectories] for group in drafts] == [["0", "1"], ["0", "1", "2", "3"]]
    critiques = [group for group in sampled if group.author == "critiquer"]
    assert [len(group.trajectories) for group in critiques] == [2] * 6  # of siblings alone, in whatever round
    for group in sampled:
        assert len({one.node for one in group.trajectories}) == len(group.trajectories)
        assert all(one.episode and int(one.path[0].node) == one.episode.number for one in group.trajectories)


def test_a_role_is_trained_on_its_own_tokens_in_its_own_contexts():
    groups = sample(collector(REFINE, actor, critiquer))
    batch = pack([group for group in groups if group.author == "critiquer"], "critiquer")
    assert [len(batch.group_ids), len(set(batch.group_ids.tolist()))] == [4, 2]
    own = batch.response_mask.bool()
    assert [bytes(row[mask].tolist()).decode() for row, mask in zip(batch.token_ids, own, strict=True)] == [
        "no", "ok", "no", "ok",
    ]  # fmt: skip


def test_seeds_depend_on_the_place_alone():
    found = collector(REFINE, actor, critiquer)
    sample(found, size=2)
    seeds = [params.seed for _, params in (*asked_of(found, "actor"), *asked_of(found, "critiquer"))]
    assert len(set(seeds)) == 10
    again = collector(REFINE, actor, critiquer, micro_group=1)
    sample(again, size=2)
    both = (*asked_of(again, "actor"), *asked_of(again, "critiquer"))
    assert sorted(params.seed for _, params in both) == sorted(seeds)


def test_conversations_hold_the_question_and_earlier_texts():
    talk = REFINE | {
        "critique": REFINE["critique"] | {"ask": [{"system": "Judge."}, "prompt", {"assistant": "{draft}"}]},
        "refinement": REFINE["refinement"]
        | {"ask": ["prompt", {"assistant": "{draft}"}, {"user": "{critique} {above}"}]},
    }
    nodes = by_node(sample(collector(talk, actor, critiquer), CHAT))
    assert nodes["0"].prompt is CHAT
    assert nodes["0/critique.0"].prompt.text == "s:Judge.|u:3+4=|a:6|a:"
    assert nodes["0/critique.0/refinement.0"].prompt.text == "u:3+4=|a:6|u:no no|a:"
    plain = by_node(
        sample(collector(talk, actor, critiquer), PLAIN)
    )  # a question that is no chat becomes one's first turn
    assert plain["0/critique.0"].prompt.text == "s:Judge.|u:3+4=|a:6|a:"
    text = by_node(sample(collector(REFINE, actor, critiquer), CHAT))
    assert text["0/critique.0/refinement.0"].prompt.text == "u:3+4=6?no>|a:"  # {prompt} is what the user said


def test_rounds_go_on_with_what_came_last():
    critique = {"of": ["draft", "refinement"], "samples": 1, "rounds": 2, "ask": "{question}{above}?"}
    rounds = REFINE | {
        "critique": REFINE["critique"] | critique,
        "refinement": REFINE["refinement"] | {"rounds": 2, "ask": "{question}{critique}>"},
    }
    nodes = by_node(sample(collector(rounds, actor, critiquer), size=1))
    last = nodes["0/critique.0/refinement.0/critique.0/refinement.0"]
    assert [one.text for one in last.path] == ["6", "no", "7", "no", "7"]
    assert last.path[3].prompt.text == "3+4=7?" and not last.children


def test_texts_of_rows_are_not_sampled_and_not_learned_from():
    given = REFINE | {"draft": {"by": "actor", "column": "drafts"}}
    found = collector(given, actor, critiquer)
    groups = sample(found, size=2)
    drafts = [one for one in by_node(groups).values() if one.move == "draft"]
    assert len(drafts) == 2 and {one.text for one in drafts} < {"5", "6", "7"}
    assert all(one.writer == DATASET and one.turns[0].token_ids == encode(one.text) for one in drafts)
    assert [one.scores["exact"].correct for one in drafts] == [one.text == "7" for one in drafts]
    assert all("?" in context for context, _ in asked_of(found, "actor"))  # the drafts were not asked for
    assert (
        len([one for one in by_node(sample(collector(given, actor, critiquer), size=9)).values() if not one.parent])
        == 3
    )


def test_greedy_moves_and_greedy_evaluations_write_one_text_each():
    greedy = REFINE | {"refinement": REFINE["refinement"] | {"greedy": True, "samples": 3, "max_completion_tokens": 1}}
    found = collector(greedy, actor, critiquer)
    nodes = by_node(sample(found))
    assert len(nodes) == 10
    asked = [params for context, params in asked_of(found, "actor") if ">" in context]
    assert {(params.temperature, params.max_tokens) for params in asked} == {(0.0, 1)}
    assert {params.temperature for context, params in asked_of(found, "actor") if ">" not in context} == {1.0}
    evaluated = by_node(sample(collector(REFINE, actor, critiquer), size=1, temperature=0.0, evaluating=True))
    assert list(evaluated) == ["0", "0/critique.0/refinement.0", "0/critique.0"]


def wrong(group: Group) -> list[Trajectory]:
    return [one for one in group.trajectories if not one.correct]


def test_a_move_follows_the_siblings_that_are_chosen_by_their_verdicts():
    chosen = REFINE | {"critique": REFINE["critique"] | {"choose": "wrong"}}
    scorer = Exact()
    nodes = by_node(sample(collector(chosen, actor, critiquer, choose=wrong, scorers={"actor": scorer})))
    assert [node for node in nodes if "critique" in node and nodes[node].author == "critiquer"] == [
        "0/critique.0", "0/critique.1",
    ]  # fmt: skip
    assert scorer.begun[:2] == ["0", "1"] and len(scorer.begun) == len(set(scorer.begun)) == 4  # none is scored twice
    everywhere = sample(collector(chosen, actor, critiquer, choose=wrong), evaluating=True)
    assert len(by_node(everywhere)) == 10  # an evaluation follows all

    def broken(group: Group) -> list[Trajectory]:
        raise KeyError("x")

    with pytest.raises(RunStopped, match=r"moves.critique.choose: broken: KeyError: 'x'"):
        sample(collector(chosen, actor, critiquer, choose=broken))
    with pytest.raises(
        RunStopped, match=r"moves.critique.choose: strange: gave .*, expected trajectories of the group"
    ):

        def strange(group: Group) -> list[int]:
            return [1]

        sample(collector(chosen, actor, critiquer, choose=strange))


def test_a_context_tells_the_verdict_and_the_feedback_of_an_earlier_text():
    told = REFINE["critique"] | {"ask": "{draft}:{draft.verdict}:{draft.feedback}?"}
    found = collector(REFINE | {"critique": told}, actor, critiquer, scorers={"actor": Exact()})
    sample(found)
    assert sorted(context for context, _ in asked_of(found, "critiquer")) == [
        "6:wrong:ends with 6?",
        "6:wrong:ends with 6?",
        "7:right:ends with 7?",
        "7:right:ends with 7?",
    ]
    scorer = found.authors["actor"].scorer
    assert isinstance(scorer, Exact) and sorted(scorer.begun[:2]) == ["0", "1"] and len(scorer.begun) == 6


def test_a_text_that_no_reward_judges_has_no_verdict_to_tell():
    told = REFINE["critique"] | {"ask": "{draft.verdict}?"}
    nodes = by_node(sample(collector(REFINE | {"critique": told}, actor, critiquer, scorers={})))
    failure = nodes["0/critique.0"].failure
    assert failure is not None and "draft.verdict" in failure.message


def test_blanks_at_the_end_of_a_text_are_not_read_by_others():
    nodes = by_node(sample(collector(REFINE, lambda context, before: " 6\n", critiquer), size=1))
    assert nodes["0"].text == " 6\n" and nodes["0/critique.0"].prompt.text == "3+4= 6?"


def test_thoughts_are_not_read_by_others():
    thinking = REFINE | {"critique": REFINE["critique"] | {"thoughts_end": "</t>"}}
    nodes = by_node(
        sample(collector(thinking, actor, lambda context, before: "hm</t>no" if before else "never"), size=1)
    )
    assert nodes["0/critique.1/refinement.0"].prompt.text == "3+4=6?no>"
    assert nodes["0/critique.0/refinement.0"].prompt.text == "3+4=6?never>"  # no thought was begun


def test_a_context_that_is_too_long_is_the_failure_of_its_text_and_of_what_needs_it():
    """The draft 6666 makes contexts of 9 and more; the critiques of the other draft are as they were."""
    found = collector(REFINE, lambda context, before: "6666" if not before and ">" not in context else "7", critiquer,
                      max_prompt_tokens=8)  # fmt: skip
    nodes = by_node(sample(found))
    failure = nodes["0/critique.0"].failure
    assert failure is not None
    assert (failure.source, failure.kind) == ("moves.critique", "invalid")
    assert failure.message == "gave critiquer a context of 9 tokens, more than rollout.max_prompt_tokens 8"
    assert not nodes["0/critique.0"].children and nodes["1/critique.0"].failure is None
    lacking = REFINE | {"critique": REFINE["critique"] | {"ask": "{nothing}"}}
    failure = by_node(sample(collector(lacking, actor, critiquer)))["0/critique.0"].failure
    assert failure is not None and "no column 'nothing'" in failure.message


class Questions:
    def take(self, n: int) -> list[Prompt]:
        return [PLAIN] * n


def collect_all(found: Collector, *trained: str) -> Any:
    collected = found.collect(
        Questions(), sample_groups=Evenly(found, 2), keep={name: piece(_all) for name in trained}, count=1,
        max_refills=0, params=SamplingParams(max_tokens=20, seed=5),
    )  # fmt: skip
    found.close()
    return collected


def test_a_run_stops_where_nothing_is_written_that_is_learned_from():
    chosen = REFINE | {"critique": REFINE["critique"] | {"choose": "none"}}
    found = collector(chosen, actor, critiquer, choose=lambda group: [])
    with pytest.raises(RunStopped, match="nothing was written of critique: see `choose` and `parts`"):
        collect_all(found, "critiquer")


def test_only_trained_moves_are_learned_from():
    found = collector(REFINE | {"draft": {"by": "actor", "trained": False}}, actor, critiquer,
                      scorers={"actor": Exact(), "critiquer": Exact()})  # fmt: skip

    collected = collect_all(found, "actor", "critiquer")
    assert {one.move for group in collected.groups for one in group.trajectories} == {"critique", "refinement"}
    assert {one.move for group in collected.sampled for one in group.trajectories} == {
        "draft",
        "critique",
        "refinement",
    }


def _all(group: Group) -> list[Trajectory]:
    return group.trajectories


def test_a_critique_is_scored_by_its_verdict_and_by_what_follows(workers):
    """
    draft 6 (wrong): no -> 7    agrees 1, refined 1        ok -> 6    disagrees -1, refined 0
    draft 7 (right): no -> 7    disagrees -1, refined 1    ok -> 6    agrees 1, refined 0
    """
    rewards = {
        "discrimination": {"right": "ok", "wrong": "no", "disagree": -1.0, "weight": 0.2},
        "refined": {},
    }
    scorers = {
        "actor": Rewards.from_specs({"exact_match": {}}, workers=workers),
        "critiquer": Rewards.from_specs(rewards, workers=workers),
    }
    nodes = by_node(sample(collector(REFINE, actor, critiquer, scorers=scorers)))
    critiques = [nodes[f"{draft}/critique.{place}"] for draft in (0, 1) for place in (0, 1)]
    assert [one.reward for one in critiques] == pytest.approx([0.2 + 1, -0.2, -0.2 + 1, 0.2])
    assert [one.correct for one in critiques] == [True, False, False, True]
    assert [one.scores["discrimination"].verdict for one in critiques] == ["wrong", "right", "wrong", "right"]
    assert [one.scores["discrimination"].outcome for one in critiques] == ["wrong", "right", "wrong", "right"]
    assert nodes["0/critique.0/refinement.0"].reward == 1.0


def test_rewards_of_some_moves_leave_the_others_alone(workers):
    scorers = {"actor": Rewards.from_specs({"exact_match": {"moves": "refinement"}}, workers=workers)}
    nodes = by_node(sample(collector(REFINE, actor, critiquer, scorers=scorers)))
    assert nodes["0/critique.0/refinement.0"].correct is True
    assert nodes["0"].scores == {} and nodes["0"].failure is None


ASK: dict[str, dict[str, Any]] = {
    "proposal": {"by": "actor", "parts": {"question": "q(.*?)a", "answer": "a([0-9]+)"}},
    "solution": {"by": "critiquer", "of": "proposal", "samples": 2, "ask": "{proposal.question}="},
    "review": {"by": "actor", "of": "solution", "ask": "{solution}~{proposal.answer}"},
}


def proposer(context: str, before: int) -> str:
    return "right" if "~" in context else ("hm q1+1a3 q 3+4 a7", "q2+2 is 4")[before]


def test_a_text_is_read_by_its_parts_and_without_all_of_them_nothing_follows():
    nodes = by_node(sample(collector(ASK, proposer, lambda context, before: str(7 + before))))
    assert dict(nodes["0"].parts) == {"question": "3+4", "answer": "7"}  # the last place that matches
    assert dict(nodes["1"].parts) == {} and not nodes["1"].children
    assert (nodes["0"].lacks, nodes["1"].lacks) == ((), ("question", "answer"))
    assert nodes["0/solution.1"].prompt.text == "3+4="
    assert nodes["0/solution.0"].prompt.row == {**PLAIN.row, "proposal.question": "3+4", "proposal.answer": "7"}
    assert nodes["0/solution.1/review.0"].prompt.text == "8~7"
    assert nodes["0"].prompt is PLAIN


def test_a_verifier_may_read_its_gold_from_the_text_that_is_answered(workers):
    verifier = {"exact_match": {"columns": {"answer": "proposal.answer"}}}
    scorers = {
        "actor": Rewards.from_specs({"learnable": {"least": 1, "moves": "proposal"}}, workers=workers),
        "critiquer": Rewards.from_specs(verifier, workers=workers),
    }
    groups = sample(collector(ASK, proposer, lambda context, before: str(7 + before), scorers=scorers))
    nodes = by_node(groups)
    assert [nodes[f"0/solution.{place}"].reward for place in (0, 1)] == [1.0, 0.0]
    assert [nodes[node].reward for node in ("0", "1")] == [1.0, 0.0]  # one of two is right; nobody could be asked


def test_what_follows_a_text_is_scored_before_it(workers):
    """The most frequent answer is known once all answers are: the proposer's reward counts its votes."""
    scorers = {
        "actor": Rewards.from_specs({"learnable": {"moves": "proposal"}}, workers=workers),
        "critiquer": Rewards.from_specs({"majority_answer": {}}, workers=workers),
    }
    moves = ASK | {"solution": ASK["solution"] | {"samples": 3}}
    nodes = by_node(sample(collector(moves, proposer, lambda context, before: "889"[before], scorers=scorers), size=1))
    assert sorted(nodes[f"0/solution.{place}"].reward for place in range(3)) == [0.0, 1.0, 1.0]
    assert nodes["0"].reward == 1.0


def test_a_function_that_chooses_may_look_at_what_earlier_moves_made_of_the_siblings():
    """Drafts 6 and 7 are probed; only the draft whose probe is right is criticised."""
    moves = {
        "draft": {"by": "actor"},
        "probe": {"by": "actor", "of": "draft", "ask": "{draft}."},
        "critique": {"by": "critiquer", "of": "draft", "ask": "{draft}?", "choose": "probed"},
    }

    def probed(group: Group) -> list[Trajectory]:
        return [one for one in group.trajectories if all(child.correct for child in one.children)]

    def says(context: str, before: int) -> str:
        return context[0] if "." in context else str(6 + before)

    nodes = by_node(sample(collector(moves, says, critiquer, choose=probed)))
    assert [node for node in nodes if "critique" in node] == ["1/critique.0"]


def test_what_earlier_steps_proposed_is_known_and_goes_on_with_a_run(workers):
    rewards = Rewards.from_specs({"difficulty_and_diversity": {"last": 3, "moves": "proposal"}}, workers=workers)
    other = Rewards.from_specs({"difficulty_and_diversity": {"last": 3, "moves": "proposal"}}, workers=workers)
    solver = Rewards.from_specs({"exact_match": {"columns": {"answer": "proposal.answer"}}}, workers=workers)

    def step(scorer: Rewards) -> list[float]:
        found = collector(
            ASK | {"proposal": {**ASK["proposal"], "parts": {"question": "q(.*?)a", "answer": "a.([0-9]+)"}}},
            lambda context, before: "right" if "~" in context else "q3+4a=7",
            lambda context, before: str(7 + before % 2),
            scorers={"actor": scorer, "critiquer": solver},
        )
        groups = sample(found)
        scorer.remember([group for group in groups if group.author == "actor"])
        return [one.reward for one in by_node(groups).values() if one.move == "proposal"]

    assert step(rewards) == pytest.approx([1.1 - 0.5 + 0.2] * 2)  # nothing was asked before, p = 1/2
    other.load_state_dict(rewards.state_dict())
    assert step(rewards) == step(other) == [0.0, 0.0]  # nothing but repetitions
    earlier = {"proposal": [{"question": "3+4", "answer": "7"}] * 3}
    assert rewards.state_dict() == other.state_dict() == {"earlier": earlier, "remembered": {}}


REPLAY: dict[str, dict[str, Any]] = {
    "draft": {"by": "actor"},
    "replay": {"by": "critiquer", "of": "draft", "column": "critique", "ask": "{prompt}{draft}?"},
}


def test_rows_texts_are_replayed_after_what_their_author_would_have_read():
    prompt = Prompt(PLAIN.id, PLAIN.token_ids, PLAIN.text, {**PLAIN.row, "critique": "no"})
    found = collector(REPLAY, actor, critiquer)
    nodes = by_node(sample(found, prompt, size=1))
    replay = nodes["0/replay.0"]
    assert (replay.text, replay.prompt.text, replay.writer) == ("no", "3+4=6?", DATASET)
    assert bytes(replay.prompt.token_ids).decode() == "3+4=6?" and replay.turns[0].token_ids == encode("no.")
    assert not asked_of(found, "critiquer")
    given, untrained = Move.model_validate(REPLAY["replay"]), Move.model_validate(REPLAY["replay"] | {"trained": False})
    assert given.learned_from and not untrained.learned_from


APPRAISED: dict[str, dict[str, Any]] = {
    "draft": {"by": "actor"},
    "appraisal": {
        "by": "critiquer", "of": "draft", "samples": 2, "ask": "{prompt}{draft}?", "prefixes": {"delimiter": ";"},
    },
}  # fmt: skip


def test_a_move_may_follow_every_beginning_of_a_text():
    found = collector(APPRAISED, lambda context, before: "1;22;;333", critiquer)
    groups = sample(found, size=1)
    appraisals = [one for group in groups for one in group.trajectories if one.move == "appraisal"]
    # the state before each of the three steps; the whole text is no state, since its outcome is known
    assert [(one.node, one.prefix, one.prompt.text) for one in appraisals] == [
        ("0/appraisal.0", 0, "3+4=?"), ("0/appraisal.1", 0, "3+4=?"),
        ("0/appraisal.2", 2, "3+4=1;?"), ("0/appraisal.3", 2, "3+4=1;?"),
        ("0/appraisal.4", 5, "3+4=1;22;?"), ("0/appraisal.5", 5, "3+4=1;22;?"),
    ]  # fmt: skip
    assert compared(groups)[1:] == [[f"0/appraisal.{n}", f"0/appraisal.{n + 1}"] for n in (0, 2, 4)]
    assert all(one.parent is groups[0].trajectories[0] for one in appraisals)
    assert groups[0].trajectories[0].prefix is None


@pytest.mark.parametrize(
    ("text", "most", "stops"),
    [("1;22;333", 2, [0, 5]), ("1;22;333", 1, [0]), ("12", 8, [0]), (";;", 8, [0]), ("1;2;3;4;5", 3, [0, 4, 8])],
)
def test_of_many_beginnings_evenly_spread_ones_are_followed(text, most, stops):
    appraisal = APPRAISED["appraisal"] | {"samples": 1, "prefixes": {"delimiter": ";", "most": most}}
    groups = sample(collector(APPRAISED | {"appraisal": appraisal}, lambda context, before: text, critiquer), size=1)
    assert [one.prefix for group in groups[1:] for one in group.trajectories] == stops
    assert (
        most_texts({name: Move.model_validate(one) for name, one in (APPRAISED | {"appraisal": appraisal}).items()}, 4)[
            "appraisal"
        ]
        == 4 * most
    )


def test_an_empty_context_is_a_failure_of_its_text_alone():
    appraisal = APPRAISED["appraisal"] | {"samples": 1, "ask": "{draft}"}
    moves = APPRAISED | {"appraisal": appraisal}
    groups = sample(collector(moves, lambda context, before: "1;2", critiquer), size=1)
    empty, other = [one for group in groups for one in group.trajectories if one.move == "appraisal"]
    assert empty.failure is not None and empty.failure.message == "gave critiquer nothing to read"
    assert other.failure is None and other.prompt.text == "1;"
