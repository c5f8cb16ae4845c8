"""The environment of a program: files, stdin, a channel, environment variables, an interpreter."""

from __future__ import annotations

import json
import socket

import pytest
from programs import CHANNEL, PATIENT, printed, talking

from llmrl.sandbox import Program, Sandbox
from llmrl.sandbox.tiers import ENVIRONMENT


def test_files_are_in_the_working_directory(sandbox: Sandbox) -> None:
    files = {"a.bin": bytes(range(256)), "deep/er/b.txt": b"b", "helper.py": b"VALUE = 42", "empty": b""}
    source = """
        import os, helper
        print(sorted(os.path.join(d, f)[2:] for d, _, names in os.walk(".") for f in names))
        print(open("a.bin", "rb").read() == bytes(range(256)), open("deep/er/b.txt").read(), helper.VALUE)
        with open("deep/er/b.txt", "a") as file: file.write("c")
        print(open("deep/er/b.txt").read(), os.path.getsize("empty"))
    """
    assert printed(sandbox, source, files=files).splitlines() == [
        "['a.bin', 'deep/er/b.txt', 'empty', 'helper.py']",
        "True b 42",
        "bc 0",
    ]
    assert printed(sandbox, "import os; print(os.listdir())") == "[]"


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a\0b", ".."])
def test_files_outside_of_the_working_directory_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="working directory"):
        Program(payload={"source": ""}, files={name: b""})


def test_stdin_is_read_byte_for_byte_and_ends(sandbox: Sandbox) -> None:
    source = "import sys; print(input()); print(sys.stdin.read() == 'two\\nthree', repr(sys.stdin.read()))"
    assert printed(sandbox, source, stdin="é\ntwo\nthree".encode()) == "é\nTrue ''"
    content = bytes(range(256)) * 1000
    source = f"import sys; print(sys.stdin.buffer.read() == bytes(range(256)) * {len(content) // 256})"
    assert printed(sandbox, source, stdin=content) == "True"


def test_a_channel_carries_messages_both_ways_and_ends_with_the_program(sandbox: Sandbox) -> None:
    with talking(sandbox, "channel.sendall(channel.recv(100).upper()); channel.recv(1)") as (running, ours):
        ours.sendall(b"hello")
        assert ours.recv(100) == b"HELLO"
        ours.sendall(b"x")
        assert running.result().exit_code == 0
        assert ours.recv(1) == b""


def test_a_channel_joins_two_programs(sandbox: Sandbox) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        sources = ("channel.send(b'ping'); print(channel.recv(9))", "print(channel.recv(9)); channel.send(b'pong')")
        ends = zip(sources, (one, other), strict=True)
        running = [sandbox.start(Program({"source": CHANNEL + s}, channel=end), PATIENT) for s, end in ends]
    assert [program.result().stdout for program in running] == [b"b'pong'\n", b"b'ping'\n"]


def test_channels_that_could_reach_elsewhere_are_refused() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other, pytest.raises(ValueError, match="channel"):
        Program({"source": ""}, channel=one)
    with socket.socket(socket.AF_INET) as internet, pytest.raises(ValueError, match="channel"):
        Program({"source": ""}, channel=internet)


def test_the_environment_is_the_sandboxs_own(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRL_TEST_SECRET", "secret")
    with Sandbox(sandbox.tier) as started_with_secret:
        source = "import os, json; print(json.dumps([dict(os.environ), os.getcwd()]))"
        environment, folder = json.loads(printed(started_with_secret, source))
    assert environment == {**ENVIRONMENT, "HOME": folder, "TMPDIR": folder}


def test_a_program_is_alone_in_its_interpreter(sandbox: Sandbox) -> None:
    source = """
        import os, sys
        print(sys.argv, sys.path[0] == os.getcwd(), sys.modules["__main__"].__dict__ is globals())
        found = []
        for name in ("kernel", "supervisor", "warden", "watch", "confined", "folders", "wire", "llmrl"):
            try: found.append(__import__(name).__file__)
            except ModuleNotFoundError: pass
        print(found)
    """
    line, found = printed(sandbox, source).splitlines()
    assert line == "['program.py'] True True"
    assert "jailed" not in found  # a package may have such a name


def test_packages_of_this_interpreter_can_be_used(sandbox: Sandbox) -> None:
    source = "import numpy as np; print((np.arange(6.0).reshape(2, 3) @ np.ones(3)).tolist())"
    assert printed(sandbox, source) == "[3.0, 12.0]"
