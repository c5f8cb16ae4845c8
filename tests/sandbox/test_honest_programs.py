"""Honest programs work: the sandbox forbids nothing that they usually do."""

from __future__ import annotations

import pytest
from programs import printed

from llmrl.sandbox import Sandbox
from llmrl.sandbox.tiers import visible

HONEST = {
    "threads": (
        "import queue, threading\nq = queue.Queue()\n"
        "ts = [threading.Thread(target=lambda n=n: q.put(n * n)) for n in range(5)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]; print(sorted(q.queue))",
        "[0, 1, 4, 9, 16]",
    ),
    "pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(3) as pool: print(list(pool.map(abs, [-1, 2, -3])))",
        "[1, 2, 3]",
    ),
    "asyncio": (
        "import asyncio\nasync def f(n):\n  await asyncio.sleep(0.01 * (3 - n)); print(n); return n\n"
        "async def main(): return await asyncio.gather(*map(f, range(3)), asyncio.to_thread(lambda: 'thread'))\n"
        "print(asyncio.run(main()))",
        "2\n1\n0\n[0, 1, 2, 'thread']",
    ),
    "tempfile": (
        "import os, tempfile\nwith tempfile.TemporaryDirectory() as folder:\n"
        "  with tempfile.NamedTemporaryFile('w+', dir=folder) as f:\n"
        "    f.write('x'); f.flush(); print(open(f.name).read())\n"
        "print(os.path.exists(folder))",
        "x\nFalse",
    ),
    "sqlite": (
        "import sqlite3\nc = sqlite3.connect('a.db'); c.execute('create table t(x)')\n"
        "c.execute('insert into t values (42)'); c.commit(); c.close()\n"
        "print(sqlite3.connect('a.db').execute('select x from t').fetchall())",
        "[(42,)]",
    ),
    "decimal": (
        "from decimal import Decimal, getcontext\ngetcontext().prec = 30; print(Decimal(1) / 7)",
        "0.142857142857142857142857142857",
    ),
    "alarm": (
        "import signal, time\ndef late(*_): raise TimeoutError('late')\nsignal.signal(signal.SIGALRM, late)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02)\ntry: time.sleep(60)\nexcept TimeoutError as e: print(e)",
        "late",
    ),
    "recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000))",
        "20000",
    ),
    "recursion without a limit of one's own": (
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(50000))",
        "50000",
    ),
    "recursion through the library": (
        "import functools, sys\nsys.setrecursionlimit(10**6)\n"
        "@functools.cache\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(100000))",
        "100000",
    ),
    "recursion without end": (
        "class A:\n  def __getattr__(self, name): return getattr(A(), name)\ntry: A().x\n"
        "except RecursionError: print('caught')",
        "caught",
    ),
    "long numbers": ("print(len(str(7**20000)), int('7' * 10000) % 1000)", "16902 777"),
    "large stack": (
        "import sys, threading\nthreading.stack_size(64 << 20); sys.setrecursionlimit(10**6)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(50000))); t.start(); t.join()",
        "50000",
    ),
    "mapped file": (
        "import mmap\nopen('f', 'wb').write(bytes(4096))\nwith open('f', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:\n"
        "  m[:2] = b'hi'; m.flush()\nprint(open('f', 'rb').read(2))",
        "b'hi'",
    ),
    "synced": (
        "import os\nwith open('f', 'w') as f: f.write('x'); f.flush(); os.fsync(f.fileno())\nprint(open('f').read())",
        "x",
    ),
    "renamed": (
        "import os, pathlib\np = pathlib.Path('a'); p.write_text('x'); p.rename('b')\n"
        "os.symlink('b', 'c'); os.mkdir('d')\n"
        "print(pathlib.Path('c').read_text(), sorted(os.listdir())); os.unlink('b'); os.rmdir('d')",
        "x ['b', 'c', 'd']",
    ),
    "time zone": (
        "import datetime as d\nprint(d.datetime(2020, 7, 1, tzinfo=d.timezone(d.timedelta(hours=2))).isoformat())",
        "2020-07-01T00:00:00+02:00",
    ),
    "socket pair": ("import socket\na, b = socket.socketpair(); a.sendall(b'x'); print(b.recv(1))", "b'x'"),
    "home": ("import os\nprint(os.path.expanduser('~') == os.getcwd())", "True"),
}
WITH_PROCESSES = {
    "fork": (
        "import os\npid = os.fork()\nif pid == 0: raise SystemExit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
        "5",
    ),
    "subprocess": (
        "import subprocess, sys\np = subprocess.run([sys.executable, '-c', 'print(6 * int(input()))'],"
        " input='7', capture_output=True, text=True); print(repr(p.stdout), p.returncode)\n"
        "print(subprocess.getoutput('echo a | tr a b'))",
        "'42\\n' 0\nb",
    ),
    "multiprocessing": (
        "import multiprocessing as m\ndef f(c): c.send(6 * 7)\na, b = m.Pipe(); p = m.Process(target=f, args=(b,))\n"
        "p.start(); print(a.recv()); p.join(); print(p.exitcode)",
        "42\n0",
    ),
    "asyncio": (
        "import asyncio\nasync def main():\n"
        "  p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=asyncio.subprocess.PIPE)\n"
        "  print(await p.communicate())\nasyncio.run(main())",
        "(b'hi\\n', None)",
    ),
    "timed out": (
        "import subprocess\ntry: subprocess.run(['sleep', '60'], timeout=0.05)\n"
        "except subprocess.TimeoutExpired as e: print(e.cmd)",
        "['sleep', '60']",
    ),
    "copied": (
        "import os, shutil\nopen('a', 'w').write('x'); os.chmod('a', 0o755); shutil.copy('a', 'b')\n"
        "print(open('b').read(), oct(os.stat('b').st_mode))",
        "x 0o100755",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_work(sandbox: Sandbox, name: str) -> None:
    source, expected = HONEST[name]
    assert printed(sandbox, source) == expected


@pytest.mark.parametrize("name", WITH_PROCESSES)
def test_honest_programs_with_processes_work(forking: Sandbox, name: str) -> None:
    source, expected = WITH_PROCESSES[name]
    assert printed(forking, source) == expected


def test_each_program_has_its_own_folder_for_temporary_files(sandbox: Sandbox) -> None:
    if not sandbox.tier.strong or any(path.startswith("/tmp/") for path in visible()):
        pytest.skip("programs see the machine's own /tmp: the tier is weak, or parts of this Python lie there")
    assert printed(sandbox, "import os; open('/tmp/a', 'w').write('x'); print(os.listdir('/tmp'))") == "['a']"


def test_a_pool_of_processes_works(forking: Sandbox) -> None:
    source = "import multiprocessing\nwith multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2, 3]))"
    assert printed(forking, source) == "[1, 2, 3]"


def test_hashes_are_the_same_every_time(sandbox: Sandbox) -> None:
    outputs = {printed(sandbox, "print(list({'a', 'b', 'c', 'd', 'e'}), hash('x'))") for _ in range(3)}
    with Sandbox(sandbox.tier) as another:
        outputs.add(printed(another, "print(list({'a', 'b', 'c', 'd', 'e'}), hash('x'))"))
    assert len(outputs) == 1


def test_random_numbers_without_a_seed_differ(sandbox: Sandbox) -> None:
    outputs = {printed(sandbox, "import random, uuid; print(random.random(), uuid.uuid4())") for _ in range(3)}
    assert len(outputs) == 3
