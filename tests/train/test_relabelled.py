"""Attempts under the verdicts of their critiques, and under the goals that they reached."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import piece
from test_spliced_paths import EOS, TOKENIZER, Speaker

from llmrl.data.prompts import load_prompts
from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.envs.single_turn import single_turn
from llmrl.errors import RecipeError, RunStopped
from llmrl.models.text import decoder
from llmrl.pieces import resolve
from llmrl.recipe import Rollout
from llmrl.recipe_moves import Move
from llmrl.recipe_rows import Data, Rows
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.moves import Asked
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import SamplingParams
from llmrl.train.relabelled import Hindsight
from llmrl.train.sources import CATALOGUE
from llmrl.types import ACTOR, Failure, Prompt, Trajectory, Turn

PROMPT = Prompt("p", (1,), "?", {})


def attempt(*critiques: str) -> Trajectory:
    found = Trajectory(PROMPT, [Turn(ACTOR, [2])], "stop", move="attempt")
    found.children = [Trajectory(PROMPT, [Turn("c", [3])], "stop", text, move="critique") for text in critiques]
    return found


@pytest.mark.parametrize(
    ("critiques", "success", "count", "goal"),
    [
        (["[[Success]]", "so [[Success]]", "[[Failure]]"], True, 2, None),
        (["[[Failure]]\nGoal: a red ball\nbye", "[[Failure]] Goal: a red ball", "[[Failure]] Goal: a hat", "?"],
         False, 3, "a red ball"),
        (["[[Failure]]", "[[Success]] Goal: a hat", "[[Failure]]"], False, 2, None),
        (["Goal: a\nGoal:  b \n[[Failure]]"], False, 1, "b"),
    ],
)  # fmt: skip
def test_most_critiques_decide_and_the_most_frequent_goal_is_taken(critiques, success, count, goal):
    found = Hindsight("critique", "Success", "Failure", "Goal:").judged(attempt(*critiques))
    assert found and (found.success, len(found.critiques), found.goal) == (success, count, goal)


def test_without_a_majority_nothing_is_decided():
    reads = Hindsight("critique", "Success", "Failure", "Goal:")
    assert reads.judged(attempt("[[Success]]", "[[Failure]]")) is None
    assert reads.judged(attempt("well", "")) is None
    failed = attempt("[[Success]]")
    failed.children[0].failure = Failure("x", "crash", "")
    assert reads.judged(failed) is None


def goals(size: int, seed: int) -> list[dict[str, Any]]:
    return [{"question": f"{n}>"} for n in range(size)]


def critiquer(context: str, before: int) -> str:
    """Compares the attempt with the goal, in 0>1? for instance; says nothing of the goal 3."""
    goal, did = context[0], context[2]
    return "[[B]]" if goal == did else "?" if goal == "3" else f"[[n]]+{did}"


SETTINGS: dict[str, Any] = {"ask": "{goal}>", "success": "B", "failure": "n", "marker": "+"}
MOVES = {
    "attempt": {"by": ACTOR},
    "critique": {"by": "critiquer", "of": "attempt", "samples": 2, "ask": "{prompt}{attempt}?"},
}


def source(actor: Any = lambda context, before: "1", **settings: Any) -> Any:
    def encode(text: str, *, special: bool = False) -> list[int]:
        return TOKENIZER.encode(text)

    text = AuthorText(encode, decoder(TOKENIZER, [EOS]), plain=encode, end=(EOS,))
    authors = {name: Author(Speaker(says), None, text) for name, says in ((ACTOR, actor), ("critiquer", critiquer))}
    asked = [Asked(name, Move.model_validate(spec)) for name, spec in MOVES.items()]
    made = Collector(authors, make_env=piece(single_turn), deadline_seconds=20.0, moves=asked)
    prompts = load_prompts(TOKENIZER, Data(train=Rows(task=f"{__name__}:goals", size=4, shuffle=False)), 8)
    available = {
        "stream": PromptStream(prompts.train, 0, False),
        "collector": made,
        "sample_groups": Evenly(made, 1),
        "rollout": Rollout(prompts_per_step=4, group_size=1, max_prompt_tokens=8, max_refills=0),
        "params": lambda seed: SamplingParams(20, seed=seed, stop_token_ids=(0, EOS)),
        "asker": prompts.asker,
        "author": ACTOR,
    }
    return resolve({"relabelled": SETTINGS | settings}, CATALOGUE, key="learn_from", what="source")(available)


def learned(groups: list[Any]) -> list[tuple[str, str, str]]:
    return [
        (one.author, one.prompt.text, str(TOKENIZER.decode(one.turns[0].token_ids)))
        for group in groups
        for one in group.trajectories
    ]


def test_failed_attempts_are_imitated_under_the_goal_that_they_reached():
    found = source().collect(5)
    # the attempts at 0, 1 and 2 are all "1"; of the attempt at 3 nobody knows
    assert learned(found.groups) == [(ACTOR, "1>", "1<eos>")] * 3
    assert [group.prompt.id for group in found.groups] == ["train:0", "train:1", "train:2"]
    shares = {"hindsight/successes": 0.25, "hindsight/relabelled": 0.5, "hindsight/undecided": 0.25}
    assert shares.items() <= found.metrics.items()


def test_a_critiquer_learns_what_it_said_and_that_the_other_goal_was_reached():
    found = source(critiquer="critiquer", review="{goal}>{attempt}?").collect(5)
    of_critiquer = [one for one in learned(found.groups) if one[0] == "critiquer"]
    failed, reached = ["[[n]]+1<eos>"] * 2, "[[B]]<eos>"
    assert [(asked, said) for _, asked, said in of_critiquer] == [
        *(("0>1?", said) for said in failed), ("1>1?", reached),
        ("1>1?", reached), ("1>1?", reached),
        *(("2>1?", said) for said in failed), ("1>1?", reached),
    ]  # fmt: skip


def test_what_cannot_be_done_says_why():
    with pytest.raises(RunStopped, match="of 4 attempts none was called a success or got another goal; 1 have no"):
        source(lambda context, before: "+").collect(5)  # which is no goal's name
    with pytest.raises(RecipeError, match="no role named 'critic'"):
        source(critiquer="critic", review="{goal}")
    with pytest.raises(RecipeError, match="critiquer and review need each other"):
        source(critiquer="critiquer")
