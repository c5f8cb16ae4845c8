"""Cheats beyond those of llmrl/sandbox/attacks/cheats.py do not pass either, and leave nothing for the next program."""

from __future__ import annotations

import textwrap

import pytest
from graded_programs import graded, outcome

from llmrl.rewards.code import grader
from llmrl.sandbox import Limits

SPY = """
    import gc, sys, os
    def spy():
        "Search every text that this process can find: its memory, its open files, and /proc."
        found = []
        frame = sys._getframe()
        while frame:
            found.append(repr(frame.f_locals))
            frame = frame.f_back
        found += [repr(o) for o in gc.get_objects() if type(o) in (dict, list, tuple, str, bytes)]
        for n in range(64):
            try: found.append(os.pread(n, 1 << 20, 0).decode(errors='replace'))
            except OSError: pass
        for place, _, names in os.walk('.'):
            for name in names: found.append(open(os.path.join(place, name)).read())
        for pid in os.listdir('/proc') if os.path.exists('/proc') else ():
            for name in ('cmdline', 'environ'):
                try: found.append(open(f'/proc/{pid}/{name}').read())
                except OSError: pass
        secret = '-'.join(['very', 'secret'])
        return secret if any(secret in text for text in found) else 'nothing'
    """


CHEATS = {
    "_exit in call": """
        def f(*a):
            import os; os._exit(0)
        """,
    "StopIteration": """
        def f(*a):
            raise StopIteration
        """,
    "equal instance": """
        class f:
            def __init__(self, *a): pass
            def __eq__(self, other): return True
        """,
    "patched modules": """
        import sys
        for name in list(sys.modules):
            sys.modules[name] = None
        def f(*a): return 1
        """,
    "closed files": """
        import os
        for fd in range(3, 64):
            try:
                os.close(fd)
            except OSError:
                pass
        def f(*a): return 1
        """,
    "shut line": """
        import gc, socket
        for one in gc.get_objects():
            if isinstance(one, socket.socket): one.shutdown(socket.SHUT_RD)
        def f(*a): return 1
        """,
    "stdin twice, stdout closed": """
        import os, sys
        os.close(1)
        sys.stdin.read(); sys.stdin.read()
        def f(*a): return 1
        """,
    "frames": """
        import inspect
        def f(*a):
            for one in inspect.stack():
                one.frame.f_globals["same"] = one.frame.f_globals["judge"] = lambda *a: True
            return 1
        """,
    "spy": f"{textwrap.dedent(SPY)}\ndef f(*a): return spy()\nif __name__ == '__main__': print(spy())",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_do_not_pass(name):
    cheat, settings = CHEATS[name], {"wall_seconds": 10.0}
    assert outcome(cheat, {"inputs": ["3\n"], "outputs": ["very-secret\n"]}, **settings) != "passed"
    assert outcome(cheat, {"inputs": [[3]], "outputs": ["very-secret"], "fn_name": "f"}, **settings) != "passed"
    expecting = "try:\n    assert f(3) == 'very-secret'\nexcept ZeroDivisionError:\n    pass"
    assert outcome(cheat, ["x = 'very-secret'\nassert f(3) == x", expecting], **settings) != "passed"
    check = """
def check(candidate):
    assert all([candidate(3) == 'very-secret'])
    assert abs(candidate(4) - 2) < 1
"""
    assert outcome(cheat, check, row={"name": "f"}, entry_point="name", **settings) != "passed"


def test_nothing_of_one_grade_is_left_for_the_next():
    assert outcome("def f(n): return 'very-secret'", ["assert f(3) == 'very-secret'"]) == "passed"
    # programs have a /tmp only if this Python does not lie below /tmp
    place = "import os, tempfile\nplace = os.path.join(tempfile.gettempdir(), 'kept-too')\n"
    keeps = f"{place}open('kept', 'w').write('1')\nopen(place, 'w').write('1')\nprint(1)"
    assert outcome(keeps, {"inputs": [""], "outputs": ["1"]}) == "passed"
    finds = f"{place}print(int(os.path.exists('kept') or os.path.exists(place)))"
    assert outcome(finds, {"inputs": [""], "outputs": ["0"]}) == "passed"
    assert outcome(f"{textwrap.dedent(SPY)}\nprint(spy())", {"inputs": [""], "outputs": ["nothing"]}) == "passed"


def test_a_result_cannot_keep_the_tests_busy_for_ever(monkeypatch):
    monkeypatch.setattr(grader, "TESTS_LIMITS", Limits(cpu_seconds=0.5, memory_mb=256))
    tests = ["assert f(1) == 1", "assert sum(f(2)) == 3"]
    assert outcome("def f(n): return 1 if n == 1 else range(10**12)", tests) == "timeout"
    assert outcome("def f(n): return 1 if n == 1 else [[]] * 500_000", tests) != "passed"
    assert graded("def f(n): return 1 if n == 1 else range(10**12)", tests, partial=True).value == 0.5
