from __future__ import annotations

from llmrl.run.lost_tasks import LostTasks
from llmrl.types import ACTOR, Failure, Group, Prompt, Trajectory, Turn

CRASH = Failure("code_verifier", "crash", "no such module")
AT = {"where": "training", "metric": "failures", "stage": "rl"}
SLOW = Failure("code_verifier", "timeout", "too slow")


def group(row: dict, *failures: Failure | None) -> Group:
    prompt = Prompt("p0", (1,), "", row)
    return Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [3])], "stop", failure=failure) for failure in failures])


def test_a_task_of_which_everything_failed_is_named_with_the_commonest_reason():
    groups = [
        group({"data_source": "apps"}, CRASH, SLOW),
        group({"data_source": "apps"}, CRASH),
        group({"data_source": "gsm8k"}, None, SLOW),
    ]
    assert [told.message for told in LostTasks().see(groups, **AT, step=4)] == [
        "all 3 training trajectories of actor on rows with data_source 'apps' failed at step 4, "
        "2 of them by code_verifier crash: no such module"
    ]


def test_a_task_is_warned_of_again_once_it_has_worked_in_between():
    lost, works, tasks = group({}, CRASH), group({}, None), LostTasks()
    steps = [lost, lost, works, lost]
    found = [len(tasks.see([one], **AT, step=step)) for step, one in enumerate(steps)]
    assert found == [1, 0, 0, 1]
    assert len(tasks.see([lost], where="evaluation", metric="eval/failures", stage="rl", step=4)) == 1


def test_a_column_of_the_recipe_and_a_nested_one_tell_tasks_apart():
    rows = [{"kind": "a"}, {"kind": "b"}, {"metadata": '{"source_dataset": "maze"}'}]
    groups = [group(rows[0], CRASH), group(rows[1], None), group(rows[2], SLOW)]
    first, second = LostTasks(["kind"]).see(groups, **AT, step=1)
    assert "on rows with kind 'a' failed" in first.message
    assert "on rows with metadata.source_dataset 'maze' failed" in second.message
    assert (first.stage, first.step, first.metric, first.value) == ("rl", 1, "failures", 1.0)


def test_no_trajectories_are_no_loss():
    assert LostTasks().see([group({})], **AT, step=1) == []
