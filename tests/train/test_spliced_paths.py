"""Paths that go wrong and go on as a better one does: what is read of them, and what is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scripted import piece

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
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.train.paths import Pair, pairs_of, splice, steps_of
from llmrl.train.sources import CATALOGUE
from llmrl.types import ACTOR, ENVIRONMENT, Failure, Group, Prompt, Trajectory, Turn

TOKENIZER = character_tokenizer("0123456789>/+;?!~[] Badunsoe")
EOS: Any = TOKENIZER.eos_token_id
PROMPT = Prompt("p", (1,), "?", {})


def own(*tokens: int) -> Turn:
    return Turn(ACTOR, list(tokens), [-0.5] * len(tokens), text=str(tokens))


def heard(*tokens: int) -> Turn:
    return Turn(ENVIRONMENT, list(tokens))


def shape(turns: list[Turn]) -> list[tuple[str, list[int]]]:
    return [(turn.author, turn.token_ids) for turn in turns]


GOOD = [own(10), heard(20), own(11), heard(21), own(12)]
BAD = [own(10), heard(20), own(13), heard(23), own(14), heard(24)]


class TestSplice:
    def test_the_worse_path_is_read_and_the_rest_learned(self):
        pair = Pair(PROMPT, GOOD, BAD, ACTOR)
        assert pair.begin == 2 and pair.actions == [2, 4]
        spliced = splice(pair, 2, [own(30), heard(31)])
        assert shape(spliced) == [
            (ENVIRONMENT, [10]), (ENVIRONMENT, [20]), (ENVIRONMENT, [13]), (ENVIRONMENT, [23]),
            (ACTOR, [30]), (ENVIRONMENT, [31]),
            (ACTOR, [11]), (ENVIRONMENT, [21]), (ACTOR, [12]),
        ]  # fmt: skip
        batch = pack([Group(PROMPT, [Trajectory(PROMPT, spliced, "stop")])], ACTOR)
        learned = batch.token_ids[0][batch.response_mask[0].bool()].tolist()
        assert learned == [30, 11, 12]
        assert shape(splice(pair, 4, []))[4:6] == [(ENVIRONMENT, [14]), (ENVIRONMENT, [24])]

    def test_a_turn_that_goes_on_loses_the_token_that_ended_it(self):
        pair = Pair(PROMPT, [own(10), own(11, 9)], [own(10), own(13, 9)], ACTOR)
        assert shape(splice(pair, 1, [own(30)], stops=(9,))) == [
            (ENVIRONMENT, [10]), (ENVIRONMENT, [13]), (ACTOR, [30]), (ACTOR, [11, 9]),
        ]  # fmt: skip

    def test_a_worse_path_that_is_a_part_of_the_better_one_has_no_worse_action(self):
        assert Pair(PROMPT, GOOD, GOOD[:3], ACTOR).actions == []


def test_pairs_are_the_best_with_each_that_is_worse_by_more_than_the_gap():
    def group(*rewards: float | None) -> Group:
        made = [Trajectory(PROMPT, [own(n)], "stop", reward=reward or 0.0) for n, reward in enumerate(rewards)]
        for one, reward in zip(made, rewards, strict=True):
            one.failure = None if reward is not None else Failure("judge", "timeout", "")
        return Group(PROMPT, made)

    def found(*rewards: float | None, **settings: float) -> list[tuple[int, int]]:
        known = {"least_good": 0.5, "least_gap": 0.2} | settings
        pairs = pairs_of(group(*rewards), **known, steps=lambda one: one.turns)
        return [(pair.good[0].token_ids[0], pair.bad[0].token_ids[0]) for pair in pairs]

    assert found(0.9, 0.75, 0.5, None, 0.0) == [(0, 2), (0, 4)]
    assert found(0.5, 0.0) == []  # above least_good, not at
    assert found(0.5, 0.0, least_good=0.4) == [(0, 1)]
    assert found(1.0, 0.75, least_gap=0.25) == []
    assert found(None) == []


def test_a_separator_ends_a_step_inside_a_turn():
    decode = decoder(TOKENIZER, [EOS])
    tokens = [*TOKENIZER.encode("1+2;3;4"), EOS]
    path = Trajectory(PROMPT, [Turn(ACTOR, tokens, text="1+2;3;4"), heard(7)], "stop")
    steps = steps_of(path, ";", lambda ids: decode(list(ids)))
    assert [turn.text for turn in steps] == ["1+2;", "3;", "4", ""]
    assert [token for turn in steps[:-1] for token in turn.token_ids] == tokens
    assert steps_of(path, None, lambda ids: decode(list(ids))) is path.turns


# the sources


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    return [{"question": f"{seed}{n}>", "answer": str(n)} for n in range(size)]


def loaded() -> LoadedPrompts:
    train = Rows(task=f"{__name__}:questions", size=3, seed=1, shuffle=False)
    return load_prompts(TOKENIZER, Data(train=train), 40)


class Speaker:
    policy_version = 3
    takes_adapter = False

    def __init__(self, says: Callable[[str, int], str]):
        self.says = says
        self.asked: list[str] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        context = str(TOKENIZER.decode(token_ids))
        said = self.says(context, self.asked.count(context))
        self.asked.append(context)
        tokens = [*TOKENIZER.encode(said, add_special_tokens=False), EOS]
        return Completion(tokens, [-0.5] * len(tokens), "stop", 3)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class LastDigit:
    """Rewards an answer that ends in the gold answer."""

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        for one in group.trajectories:
            one.reward = float(one.text.endswith(group.prompt.row["answer"]))


def actor(context: str, before: int) -> str:
    """Answers 8;2;5, then 8;9;0, and flags what has a 9 as bad."""
    if "?" in context:
        return "[[Bad]]" if context.endswith("/9;?") else "so Good [[Good]]"
    return ("8;2;0", "8;9;5")[before % 2] if context == "10>" else ("8;5", "8;7")[before % 2]


def source(spec: dict[str, Any], says: Callable[[str, int], str] = actor, **rollout: Any) -> Any:
    text = AuthorText(lambda text, *, special=False: TOKENIZER.encode(text), decoder(TOKENIZER, [EOS]), end=(EOS,))
    authors = {
        ACTOR: Author(Speaker(says), LastDigit(), text),
        "annotator": Author(Speaker(lambda context, before: "no"), None, text),
        "critiquer": Author(Speaker(lambda context, before: "?"), None, text),
    }
    made, prompts = Collector(authors, make_env=piece(single_turn), deadline_seconds=20.0), loaded()
    settings = Rollout(**{"prompts_per_step": 2, "group_size": 2, "max_completion_tokens": 20, **rollout})
    available = {
        "stream": PromptStream(prompts.train, 0, False),
        "collector": made,
        "sample_groups": Evenly(made, 2),
        "rollout": settings,
        "params": lambda seed: SamplingParams(20, seed=seed, stop_token_ids=(0, EOS)),
        "asker": prompts.asker,
        "author": ACTOR,
    }
    return resolve(spec, CATALOGUE, key="learn_from", what="source")(available)


def written(group: Group) -> list[tuple[str, str]]:
    [one] = group.trajectories
    return [(turn.author, str(TOKENIZER.decode(turn.token_ids))) for turn in one.turns]


FLAG = {"flag": "{prompt}{path}/{action}?", "revisions": ["!"], "separator": ";"}


def test_a_path_is_left_at_the_first_step_that_the_policy_finds_bad():
    found = source({"spliced_paths": FLAG}).collect(5)
    spliced, good = found.groups
    assert spliced.prompt.text == good.prompt.text == "10>"  # no answer to the other question was better
    assert written(spliced) == [
        (ENVIRONMENT, "8;"), (ENVIRONMENT, "9;"), (ACTOR, "!"), (ACTOR, "2;"), (ACTOR, "0<eos>"),
    ]  # fmt: skip
    assert written(good) == [(ACTOR, "8;"), (ACTOR, "2;"), (ACTOR, "0<eos>")]
    assert found.metrics["spliced/pairs"] == found.metrics["spliced/flagged"] == found.metrics["spliced/kept"] == 1
    assert not pack(found.groups, ACTOR).rollout_logprobs.any()  # nobody sampled them there


def test_a_path_without_a_bad_step_is_read_to_its_end_or_dropped():
    unsure = lambda context, before: "[[Uncertain]]" if "?" in context else actor(context, before)  # noqa: E731
    [spliced] = source({"spliced_paths": FLAG | {"with_good": False, "reply": "~"}}, unsure).collect(5).groups
    assert "".join(text for _, text in written(spliced)) == "8;9;5!~2;0<eos>"
    assert [author for author, _ in written(spliced)][3:5] == [ACTOR, ENVIRONMENT]
    with pytest.raises(RunStopped, match="of 1 pairs of paths none was kept"):
        source({"spliced_paths": FLAG | {"with_good": False, "keep_unflagged": False}}, unsure).collect(5)
    with pytest.raises(RunStopped, match="of 1 pairs of paths none was kept"):
        source({"spliced_paths": FLAG | {"with_good": False}}, max_completion_tokens=7).collect(5)  # 8 tokens


def test_a_step_without_a_better_path_says_why():
    with pytest.raises(RunStopped, match=r"no path was better than another by over 0.2 in 4 groups"):
        source({"spliced_paths": FLAG}, lambda context, before: "8;5", max_refills=1).collect(5)


MMC = {
    "annotator": "annotator", "compare": "{prompt}{path}/{bad}/{good}?", "critiquer": "critiquer",
    "review": "{prompt}{path}{action}?", "critique": " {critique}!", "separator": ";",
}  # fmt: skip


def test_a_critique_of_the_first_difference_is_read_by_the_actor_and_learned_by_the_critiquer():
    made = source({"criticized_paths": MMC})
    spliced, taught, good = made.collect(5).groups
    assert made.collector.authors["annotator"].sampler.asked == ["10>8;/9;5/2;0?"]
    assert written(spliced) == [
        (ENVIRONMENT, "8;"), (ENVIRONMENT, "9;"), (ENVIRONMENT, " no!"), (ACTOR, "2;"), (ACTOR, "0<eos>"),
    ]  # fmt: skip
    assert (taught.author, taught.trajectories[0].prompt.text, written(taught)) == (
        "critiquer", "10>8;9;?", [("critiquer", "no<eos>")],
    )  # fmt: skip
    assert written(good)[0] == (ACTOR, "8;")
    alone = source({"criticized_paths": MMC | {"critiquer": None, "with_good": False}}).collect(5).groups
    assert [group.author for group in alone] == [ACTOR]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"annotator": "anotator"}, r"criticized_paths.annotator: no role named 'anotator'; did you mean 'annotator'"),
        ({"critique": "so"}, r"expected a text with one \{critique\}"),
    ],
)
def test_unknown_roles_and_templates_without_the_critique_are_refused(settings, words):
    with pytest.raises(RecipeError, match=words):
        source({"criticized_paths": MMC | settings})
