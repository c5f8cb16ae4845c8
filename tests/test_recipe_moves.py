"""Moves in recipe files: what is refused, how many texts there are, and what `llmrl check` says of them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from checking import checked, shared_workers

from llmrl.errors import RecipeError
from llmrl.recipe_file import load_plan
from llmrl.recipe_moves import compared_texts, most_texts
from llmrl.resolve import faults_of_play
from llmrl.run.run import resolve_plan

REVIEW: dict[str, Any] = {
    "model": {
        "build": {
            "characters": "0123456789+-=? []",
            "config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128},
        }
    },
    "data": {"train": {"path": "rows.jsonl", "prompt": "{question}="}},
    "moves": {
        "draft": {"by": "actor"},
        "critique": {"by": "critiquer", "of": "draft", "samples": 4, "ask": "{question}={draft}?"},
        "refinement": {"by": "actor", "of": "critique", "samples": 2, "ask": "{question}={draft}?{critique}="},
    },
    "roles": {
        "actor": {"method": "grpo", "regularizers": {"kl_k3": None}, "rewards": {"math_verifier": {}}},
        "critiquer": {"method": "rloo", "rewards": {"discrimination": {"right": "+", "wrong": "-"}, "refined": {}}},
    },
    "rollout": {"engine": "transformers", "prompts_per_step": 4, "group_size": 2, "max_prompt_tokens": 48,
                "max_completion_tokens": 8},
    "training": {"steps": 2},
}  # fmt: skip


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"question": "{n}+1", "answer": "{n + 1}"}}\n' for n in range(9)))

    def written(**changes: Any) -> Any:
        """The recipe's file with other values at dotted keys; None removes one."""
        recipe = copy.deepcopy(REVIEW)
        for key, value in changes.items():
            *path, last = key.split("__")
            part = recipe
            for name in path:
                part = part[name]
            part[last] = value
            if value is None:
                part.pop(last)
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        return tmp_path / "r.yaml"

    return written


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"moves__critique__by": "critic"}, "moves.critique.by: no role named 'critic'; did you mean 'critiquer'?"),
        ({"moves__critique__of": "drafts"}, "moves.critique.of: no move named 'drafts'; did you mean 'draft'?"),
        ({"moves__critique__of": None}, "moves.critique.of: missing; only the first move, draft, follows the question"),
        (
            {"moves__critique__ask": None},
            "moves.critique.ask: missing; only the first move may read the question alone",
        ),
        ({"moves__draft__by": "critiquer"}, "moves.draft.by: critiquer, but the first move is the first role's; name"),
        ({"moves__draft__of": "critique"}, "moves.draft.of: the first move follows the question; leave it out"),
        ({"moves__draft__samples": 4}, "moves.draft.samples: 4, but rollout.group_size says how many texts there are"),
        ({"moves__draft__greedy": True}, "moves.draft.greedy: true, but actor learns from this move, and only samples"),
        ({"moves__refinement__compared_within": "drft"}, "moves.refinement.compared_within: no earlier move named 'dr"),
        (
            {"moves__critique__max_completion_tokens": 9},
            "moves.critique.max_completion_tokens: 9, more than critiquer's",
        ),
        ({"moves__critique__ask": "{draft"}, "moves.critique.ask: single '{' at character 0 of '{draft'"),
        (
            {"moves__critique__ask": [{"users": "x"}]},
            "moves.critique.ask: expected 'prompt' or one of system, user, assi",
        ),
        ({"moves__prompt": {"by": "actor", "of": "draft", "ask": "x"}}, "moves: 'prompt' is no name for a move"),
        ({"moves__draft__parts": {"sum": "[0-9"}}, "moves.draft.parts: '[0-9' is no regular expression: "),
        ({"moves__draft__parts": {"sum": "[[([0-9])]]"}}, "moves.draft.parts: '[[([0-9])]]' opens a set of characters"),
        ({"moves__draft__parts": {"sum": "[0-9]"}}, "moves.draft.parts: '[0-9]' has no group in parentheses"),
        ({"moves__draft__parts": {"a.b": "(.)"}}, "moves.draft.parts: 'a.b' is no name for a part"),
        (
            {
                "moves__replay": {
                    "by": "actor",
                    "of": "draft",
                    "column": "answer",
                    "ask": "{prompt}",
                    "trained": False,
                },
            },
            "moves.replay.ask: nobody reads it, since the rows' texts (column: answer) are not learned from",
        ),
        ({"env": "python_tool"}, "env: python_tool, but moves are single answers, which no environment answers"),
        ({"rollout__written_by": {"reference": 1}}, "rollout.written_by: other writers write no moves"),
        (
            {"roles__actor__rewards": {"math_verifier": {"moves": ["draft", "refinment"]}}},
            "rewards.math_verifier.moves: no move of actor named 'refinment'; did you mean 'refinement'?",
        ),
        (
            {"roles__actor__rewards": {"math_verifier": {"moves": "refinement"}}},
            "moves.draft: actor learns from it, but no reward scores it; set moves.draft.trained: false",
        ),
        (
            {"moves__critique__ask": "{draft.verdict}?", "roles__actor": {"trained": False, "rewards": {}}},
            "moves.draft: others are told its verdict or feedback, but actor has no rewards",
        ),
        ({"moves__draft__parts": {"verdict": "(.)"}}, "moves.draft.parts: 'verdict' is no name for a part"),
    ],
)
def test_what_cannot_be_played_is_refused(write, changes, fault):
    with pytest.raises(RecipeError) as caught:
        load_plan(write(**changes))
    assert [one for one in caught.value.faults if one.startswith(fault)], caught.value.faults


def test_moves_that_are_compared_need_company_and_choose_a_function_of_a_group(write):
    with pytest.raises(RecipeError) as caught:
        resolve_plan(load_plan(write(moves__critique__samples=1, moves__critique__choose="bestof")))
    assert caught.value.faults == [
        "moves.critique.samples: 1, but advantage of critiquer compares its texts (rloo); give at least 2",
        "moves.critique.choose: no keep function named 'bestof'; did you mean 'best_of'?",
    ]
    frozen = {"method": "rloo", "trained": False, "rewards": {"refined": {}}}
    resolve_plan(load_plan(write(moves__critique__samples=1, roles__critiquer=frozen)))
    resolve_plan(load_plan(write(rollout__group_size=1, moves__draft__trained=False)))


def test_a_trained_role_learns_from_one_of_its_moves(write):
    unlearned = {"moves__critique__trained": False, "roles__actor__trained": False}
    with pytest.raises(RecipeError) as caught:
        resolve_plan(load_plan(write(**unlearned)))
    assert caught.value.faults == [
        "roles.critiquer.trained: true, but nothing of critiquer is learned from (critique); set it to false, or let "
        "critiquer learn from a move that it samples"
    ]
    asked = {"relabelled": {"ask": "Task: {goal}", "critiquer": "critiquer", "review": "Task: {goal}\n{attempt}?"}}
    assert not faults_of_play({}, load_plan(write(learn_from=asked, **unlearned)).stages["train"])


def test_check_refuses_what_train_refuses(write):
    changes = {"moves__critique__samples": 1, "moves__refinement__choose": "bestof"}
    with shared_workers():
        faults, _ = checked(load_plan(write(**changes)))
    assert faults == [
        "moves.critique.samples: 1, but advantage of critiquer compares its texts (rloo); give at least 2",
        "moves.refinement.choose: no keep function named 'bestof'; did you mean 'best_of'?",
    ]


def test_a_row_that_lacks_the_texts_of_others_is_named(write, tmp_path):
    rows = [{"question": f"{n}+1", "answer": str(n + 1), **({"drafts": ["2"]} if n != 3 else {})} for n in range(5)]
    file = write(moves__draft__column="drafts")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with shared_workers():
        faults, _ = checked(load_plan(file))
    assert faults == [
        "moves.draft.column: no column named 'drafts' in train:3, as other rows have; valid: answer, question"
    ]


def test_the_labels_of_a_verdict_differ(write):
    with shared_workers():
        faults, _ = checked(load_plan(write(roles__critiquer__rewards__discrimination={"right": "+", "wrong": "+"})))
    assert faults == ["roles.critiquer.rewards.discrimination: right and wrong are both '+'; expected two labels"]


def test_a_loss_may_not_take_replayed_texts_for_its_own(write):
    replay = {"by": "critiquer", "of": "draft", "column": "answer", "ask": "{prompt}{draft}?"}
    with pytest.raises(RecipeError) as caught:
        resolve_plan(load_plan(write(moves__replay=replay)))
    assert caught.value.faults == [
        "moves.replay: its texts are the rows', and policy_loss reinforce of critiquer takes them for its own; add "
        "token_weights: {policy_completions: {}}, or set moves.replay.trained: false"
    ]
    spc = REVIEW["roles"]["critiquer"] | {"method": "spc"}
    resolve_plan(load_plan(write(moves__replay=replay, roles__critiquer=spc)))


def test_how_many_texts_there_are_and_how_many_are_compared(write):
    moves = load_plan(write()).stages["train"].moves
    assert most_texts(moves, 2) == {"draft": 2, "critique": 8, "refinement": 16}
    assert [compared_texts(name, moves, 2) for name in moves] == [2, 4, 2]
    wide = load_plan(write(moves__refinement__compared_within="draft")).stages["train"].moves
    assert compared_texts("refinement", wide, 2) == 8
    of_all = load_plan(write(moves__refinement__compared_within="prompt")).stages["train"]
    assert compared_texts("refinement", of_all.moves, 2) == 16 and of_all.in_flight(1) == 64
    rounds = {"of": ["draft", "refinement"], "rounds": 2}
    twice = write(
        moves__critique=REVIEW["moves"]["critique"] | rounds,
        moves__refinement=REVIEW["moves"]["refinement"] | {"rounds": 2},
    )
    assert most_texts(load_plan(twice).stages["train"].moves, 1) == {
        "draft": 1, "critique": 4 + 8 * 4, "refinement": 8 + 32 * 2,
    }  # fmt: skip


def test_check_tells_the_tree_and_names_columns_that_rows_lack(write):
    with shared_workers():
        faults, said = checked(load_plan(write(moves__critique__ask="{question}={draft}{draft.verdict}?")))
        changes = {"moves__critique__ask": "{questin}{draft}", "moves__draft__column": "drafts"}
        lacking, _ = checked(load_plan(write(**changes)))
    assert not faults
    told = "draft (actor) x 2, critique (critiquer) x 8 after draft, refinement (actor) x 16 after critique"
    assert told in " ".join(said.split()) and "4 prompts x 2 = 8 first texts per step; 1 update;" in said
    assert lacking == [
        "moves.draft.column: no column named 'drafts'; valid: answer, question",
        "moves.critique.ask: no column 'questin'; did you mean 'question'? (columns: question, answer, draft, "
        "critique, refinement, prompt, above)",
    ]
