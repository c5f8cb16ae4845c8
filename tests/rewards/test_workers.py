from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hostile_rewards
import pytest

from llmrl.rewards.math_verifier import math_verifier
from llmrl.rewards.workers import CrashError, Workers
from llmrl.types import Score


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        pool.warm(["hostile_rewards"])
        yield pool


def run(workers: Workers, function, *args, deadline: float = 10.0, **settings):
    return asyncio.run(workers.run(function, args, settings, deadline))


def test_processes_are_light_and_deaf_to_interrupts(workers):
    assert run(workers, hostile_rewards.process_facts, "") == Score(0.0, True)


def test_modules_are_imported_before_the_first_deadline():
    """math-verify takes about a second to import, so a deadline must not include the import."""
    with Workers(1) as warm:
        warm.warm(["llmrl.rewards.math_verifier", "no_such_module"])
        assert run(warm, hostile_rewards.is_loaded, "math_verify")
        assert run(warm, math_verifier, r"\boxed{\frac{2}{4}}", "0.5", extract="boxed") == Score(1.0, True)


def test_timeout_kills_and_the_pool_goes_on(workers):
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"deadline of 0\.5 seconds"):
        run(workers, hostile_rewards.hang_on_hang, "hang", deadline=0.5)
    assert time.perf_counter() - start < 2.5
    assert run(workers, hostile_rewards.length, "abc") == 3.0


def test_a_hang_inside_c_is_killed_at_once(workers):
    start = time.perf_counter()
    with pytest.raises(TimeoutError):
        run(workers, hostile_rewards.hang_in_c, "", deadline=0.5)
    assert time.perf_counter() - start < 2.5


def test_rewards_are_light_to_import():
    heavy = "torch", "vllm", "transformers", "sympy", "math_verify", "reasoning_gym"
    code = f"import sys, llmrl.rewards.base; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_deadline_does_not_count_the_queue(workers):
    async def crowd():
        calls = [workers.run(hostile_rewards.slow, ("",), {"seconds": 0.3}, 1.5) for _ in range(12)]
        return await asyncio.gather(*calls)  # the last starts after 5 * 0.3 = 1.5 s

    assert asyncio.run(crowd()) == [1.0] * 12


def test_crashes_are_typed_and_the_pool_goes_on(workers):
    with pytest.raises(CrashError, match="exit code 3"):
        run(workers, hostile_rewards.exit_on_die, "die")
    with pytest.raises(CrashError, match="MemoryError"):
        run(workers, hostile_rewards.hundred_gigabytes, "")
    with pytest.raises(ValueError, match="no such answer"):
        run(workers, hostile_rewards.raises_value_error, "")
    assert run(workers, hostile_rewards.length, "abc") == 3.0


def test_a_function_that_cannot_be_sent_is_an_error(workers):
    with pytest.raises(ValueError, match="cannot be sent to a worker process"):
        run(workers, lambda completion: 1.0, "a")


FATES = {
    "fine": 1.0,
    "hang": "TimeoutError: ran past its deadline of 1.5 seconds",
    "deaf": "TimeoutError: ran past its deadline of 1.5 seconds",
    "exit": "CrashError: its process died with exit code 3",
    "kill": "CrashError: its process died with exit code -9",
}


def test_every_call_has_its_own_fate_also_while_the_trainer_computes(workers):
    """The parent's threads get little time, so a process's end is often seen before what it had said."""
    texts = ["hang", "deaf", *["exit", "kill"] * 4, *["fine"] * 30]
    random.Random(0).shuffle(texts)
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    async def fate(text: str) -> float | str:
        try:
            return await workers.run(hostile_rewards.fate, [text], {}, 1.5)
        except (TimeoutError, CrashError) as error:
            return f"{type(error).__name__}: {error}"

    async def together() -> list[float | str]:
        return await asyncio.gather(*map(fate, texts))

    computing = threading.Thread(target=compute)
    computing.start()
    try:
        assert asyncio.run(together()) == [FATES[text] for text in texts]
    finally:
        over.set()
        computing.join()


def test_what_a_hanging_function_started_ends_with_it(workers, tmp_path):
    with pytest.raises(TimeoutError):
        run(workers, hostile_rewards.hang_with_a_child, "", str(tmp_path / "child"), deadline=2.0)
    child = int((tmp_path / "child").read_text())
    assert ended(child), "the child was still there 5 seconds after its parent"


def test_a_process_that_died_while_it_had_nothing_to_do_costs_no_call():
    with Workers(1) as pool:
        process = int(run(pool, hostile_rewards.process_id, ""))
        os.kill(process, signal.SIGKILL)
        assert run(pool, hostile_rewards.length, "abc") == 3.0


def test_close_then_run_starts_again():
    pool = Workers(1)
    assert not run(pool, hostile_rewards.is_loaded, "math_verify")  # a process imports only the modules to warm
    pool.close()
    assert run(pool, hostile_rewards.length, "ab") == 2.0
    pool.close()
    pool.close()


UNGUARDED_SCRIPT = """
import asyncio, sys
print("script ran", flush=True)
sys.path.insert(0, {tests!r})
import hostile_rewards
from llmrl.rewards.workers import Workers

def mine(completion):
    return 1.0

with Workers(2) as pool:
    print(asyncio.run(pool.run(hostile_rewards.length, ("abcd",), {{}}, 10.0)))
    try:
        asyncio.run(pool.run(mine, ("a",), {{}}, 10.0))
    except ValueError as error:
        print(error)
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED_SCRIPT.format(tests=str(Path(__file__).parent.parent / "support")))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "script ran",
        "4.0",
        "mine is defined in the script being run: move it to a module",
    ], done.stderr


ORPHANING_SCRIPT = """
import asyncio, sys
sys.path.insert(0, {tests!r})
import hostile_rewards
from llmrl.rewards.workers import Workers
from multiprocessing import active_children

async def main():
    pool = Workers(1)
    await pool.run(hostile_rewards.length, ("a",), {{}}, 10.0)
    hung = asyncio.create_task(pool.run(hostile_rewards.hang_on_hang, ("hang",), {{}}, 600.0))
    await asyncio.sleep(0.5)
    print(active_children()[0].pid, flush=True)
    await hung

asyncio.run(main())
"""


def test_processes_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "orphaning.py"
    script.write_text(ORPHANING_SCRIPT.format(tests=str(Path(__file__).parent.parent / "support")))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert ended(child), "the process was still there 5 seconds after its parent"


def ended(pid: int) -> bool:
    """Whether the process ends within 5 seconds; else it is killed."""
    for _ in range(50):
        if not running(pid):
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
