"""Programs that run at the same time or one after another do not see each other."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

from programs import line_of_descent, printed, run, talking

from llmrl.sandbox import Sandbox


def test_programs_run_at_the_same_time_each_with_files_of_its_own(sandbox: Sandbox) -> None:
    source = """
        import os
        name = channel.recv(9).decode()
        open(name, "w").write(name)
        channel.sendall(b"written")
        channel.recv(1)
        print(name, os.listdir())
    """
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(talking(sandbox, source)) for _ in range(5)]
        for place, (_, ours) in enumerate(programs):
            ours.sendall(str(place).encode())
        for _, ours in programs:  # every program waits until all have written
            assert ours.recv(9) == b"written"
        for _, ours in programs:
            ours.sendall(b"x")
        found = [running.result().stdout.decode() for running, _ in programs]
    assert found == [f"{place} ['{place}']\n" for place in range(5)]


def test_programs_see_no_processes_of_others(sandbox: Sandbox) -> None:
    look = """
        import os
        try: pids = [name for name in os.listdir("/proc") if name.isdigit()]
        except PermissionError: pids = [input()]
        read = []
        for pid in {*pids} - {str(os.getpid())}:
            for name in ("environ", "maps", "mem", "fd", "cwd/secret", "root/secret"):
                try: read.append(os.listdir(f"/proc/{pid}/{name}") if name == "fd" else open(f"/proc/{pid}/{name}"))
                except OSError: pass
        print(len({*pids} - {"1", str(os.getpid())}), read)
    """
    source = "open('secret', 'w').close(); channel.sendall(str(os.getpid()).encode()); channel.recv(1)"
    with talking(sandbox, source) as (running, ours):
        neighbour = ours.recv(9)
        assert printed(sandbox, look, stdin=neighbour) == f"{0 if sandbox.tier.strong else 1} []"
        ours.send(b"x")
        assert running.result().exit_code == 0


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(6) as pool:
        numbers = range(24)
        answers = pool.map(lambda n: printed(sandbox, "print(int(input()) ** 2)", stdin=str(n).encode()), numbers)
        assert list(answers) == [str(n**2) for n in numbers]


def test_a_program_leaves_nothing_behind_for_the_next(sandbox: Sandbox) -> None:
    source = """
        import builtins, decimal, json, os, random, signal, sys
        print(hasattr(builtins, "planted"), decimal.getcontext().prec, hasattr(json, "planted"), os.listdir(),
              "PLANTED" in os.environ, sys.getrecursionlimit(), os.umask(0), signal.getsignal(signal.SIGALRM).name,
              oct(os.stat(".").st_mode), os.getcwd() == os.environ["HOME"])
        builtins.planted = json.planted = True
        decimal.getcontext().prec = 5
        sys.setrecursionlimit(5000)
        os.environ["PLANTED"] = "1"
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        os.makedirs("folder/below")
        open("folder/below/planted.py", "w").close()
        open("json.py", "w").close()
        os.chdir("folder")
    """
    clean = "False 28 False [] False 100000 18 SIG_DFL 0o40700 True"
    umask = os.umask(0o022)
    os.umask(umask)
    assert [printed(sandbox, source) for _ in range(3)] == [clean.replace(" 18 ", f" {umask} ")] * 3


def test_a_warm_interpreter_is_used_again_unless_a_program_left_files(fresh: Sandbox) -> None:
    run(fresh, "x = 1")
    line = line_of_descent(fresh.pid)
    run(fresh, "x = 1")
    assert (line_of_descent(fresh.pid), fresh.idle) == (line, 1)
    run(fresh, "open('left', 'w').close()")
    assert fresh.idle == 0


def test_processes_left_behind_end_with_the_program(forking: Sandbox) -> None:
    source = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                channel.sendall(b"x")
                time.sleep(600)
            os._exit(0)
        channel.recv(1)
    """
    with talking(forking, source) as (running, ours):
        assert ours.recv(1) == b"x"
        ours.sendall(b"x")
        assert running.result().exit_code == 0
        assert ours.recv(1) == b""  # no process holds the other end any more
