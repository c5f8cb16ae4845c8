from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from aiohttp.test_utils import TestClient, TestServer
from reward_model import make_reward_model, served

from llmrl.serve.app import Limits, Server
from llmrl.serve.model import ServedModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_reward_model(tmp_path_factory.mktemp("rm"))


@pytest.fixture(scope="module")
def model(folder):
    return ServedModel(folder)


def asked(model, *requests, limits=Limits()):  # noqa: B008  it is frozen
    """The (status, JSON, headers) of each request (method, path, body), asked one after the other."""

    async def main():
        found = []
        async with TestClient(TestServer(Server(model, limits).app())) as client:
            for method, path, body in requests:
                data = body if isinstance(body, bytes | None) else json.dumps(body)
                async with client.request(method, path, data=data) as answer:
                    text = await answer.text()
                    found.append((answer.status, json.loads(text) if path != "/metrics" else text, answer.headers))
        return found

    return asyncio.run(main())


def test_the_three_forms_of_a_text_have_the_models_scores(model):
    said = [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "3"}]
    found = asked(
        model,
        ("POST", "/score", {"texts": ["1+2=3", "no"]}),
        ("POST", "/score", {"prompt": "1+2=", "completion": ["3", "4"]}),
        ("POST", "/score", {"messages": [said]}),
    )
    rows = [
        [model.text_ids("1+2=3"), model.text_ids("no")],
        [model.answer_ids("1+2=", "3"), model.answer_ids("1+2=", "4")],
        [model.message_ids(said)],
    ]
    for (status, answer, _), expected in zip(found, rows, strict=True):
        assert status == 200
        assert answer["scores"] == pytest.approx([one for [one] in model.scores(expected)], abs=1e-5)


def test_vllms_endpoints_answer_in_vllms_form(model, monkeypatch):
    [[raw]] = model.scores([model.text_ids("1+2=3")])
    body = {"model": "rm", "input": "1+2=3"}
    pooled, activated, classified = asked(
        model,
        ("POST", "/pooling", body | {"use_activation": False}),
        ("POST", "/pooling", body),
        ("POST", "/classify", body),
    )
    chance = 1 / (1 + math.exp(-raw))
    assert pooled[1]["data"][0]["data"] == pytest.approx([raw], abs=1e-5)
    assert activated[1]["data"][0]["data"] == pytest.approx([chance], abs=1e-5)
    assert classified[1]["data"][0]["probs"] == pytest.approx([chance], abs=1e-5)
    assert classified[1]["data"][0]["num_classes"] == 1
    monkeypatch.setattr(model, "activates", False)  # a regression
    as_it_is, activated = asked(
        model, ("POST", "/pooling", body), ("POST", "/pooling", body | {"use_activation": True})
    )
    assert as_it_is[1]["data"][0]["data"] == pytest.approx([raw], abs=1e-5)
    assert activated[1]["data"][0]["data"] == pytest.approx([chance], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, ["body", "expected JSON"]),
        ([1], 400, ["body", "[1]", "a JSON object"]),
        ({"texts": ["a"], "txts": 1}, 400, ["txts", "did you mean 'texts'"]),
        ({"texts": "a"}, 400, ["texts", "'a'", "a list of texts"]),
        ({"texts": []}, 400, ["texts", "[]"]),
        ({"texts": ["a", 3]}, 400, ["texts[1]", "3", "a text"]),
        ({"texts": ["a", ""]}, 400, ["texts[1]", "at least one token"]),
        ({"texts": ["a", "1" * 129]}, 400, ["texts[1]", "129 tokens", "at most 128"]),
        ({}, 400, ["body", "texts; or messages; or prompt and completion"]),
        ({"texts": ["a"], "prompt": "b"}, 400, ["texts and prompt"]),
        ({"prompt": ["a", "b"], "completion": ["c"]}, 400, ["prompt", "2 texts", "one text, or 1"]),
        ({"messages": [[{"role": "user", "content": "a"}]]}, 400, ["messages[0]", "then the answer"]),
        (
            {"messages": [[{"role": "user"}, {"role": "assistant", "content": "b"}]]},
            400,
            ["messages[0]", "message 0", "no content"],
        ),
        (
            {"messages": [[{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": True}]]},
            400,
            ["messages[0]", "message 1: expected a list of tool_calls, got True"],
        ),
        ({"messages": [[{"role": "user", "content": "a"}] * 2]}, 400, ["messages[0][1].role", "'user'", "assistant"]),
        ({"texts": ["a", "\ud800"]}, 400, ["body", "half of a surrogate pair"]),
        ({"texts": ["a" * 100] * 3}, 413, ["300 tokens in one request", "at most 250"]),
    ],
)
def test_a_fault_names_field_value_and_what_was_expected(model, body, status, words):
    [(found, answer, _)] = asked(model, ("POST", "/score", body), limits=Limits(queue_tokens=250))
    assert found == status
    assert all(word in answer["error"]["message"] for word in words), answer


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("use_activation", 0, "null or true or false"),
        ("task", "embed", 'null or "classify"'),
        ("encoding_format", "base64", '"float"'),
        ("inputs", [], "did you mean 'input'"),
    ],
)
def test_what_vllm_would_do_and_this_server_does_not_is_refused(model, field, value, expected):
    [(status, answer, _)] = asked(model, ("POST", "/pooling", {"input": "a", field: value}))
    assert status == 400
    assert answer["error"]["message"] == f"{field}: got {value!r}, expected {answer['error']['expected']}"
    assert expected in answer["error"]["expected"]


def test_other_paths_methods_health_and_metrics(model):
    nothing, method, health, _, metrics = asked(
        model,
        ("POST", "/scores", {}),
        ("GET", "/score", None),
        ("GET", "/health", None),
        ("POST", "/score", {"texts": ["abcde", "abcd"]}),
        ("GET", "/metrics", None),
    )
    assert nothing[0] == 404
    assert "/scores: no such endpoint" in nothing[1]["error"]["message"]
    assert method[0] == 405
    assert "got GET, expected POST" in method[1]["error"]["message"]
    assert health[:2] == (200, {"status": "ok", "model": model.name, "labels": ["LABEL_0"], "max_tokens": 128})
    for line in (
        'llmrl_requests_total{endpoint="other",status="405"} 1.0',
        'llmrl_requests_total{endpoint="/score",status="200"} 1.0',
        "llmrl_scored_tokens_total 9.0",
        "llmrl_padding_tokens_total 1.0",
    ):
        assert line in metrics[1].splitlines()


class Slow:
    """A model that takes 0.6 seconds for a batch."""

    name, labels, max_tokens = "slow", ["LABEL_0"], 100

    def text_ids(self, text, bare=False):
        return [ord(one) for one in text]

    def scores(self, rows):
        time.sleep(0.6)
        return [[math.nan if row == [ord("n")] else float(row[0])] for row in rows]


def test_a_full_queue_a_deadline_and_nan_are_said_and_not_scored():
    async def main():
        limits = Limits(batch_tokens=3, queue_tokens=4, deadline_seconds=1.0)
        async with TestClient(TestServer(Server(Slow(), limits).app())) as client:  # pyright: ignore[reportArgumentType]
            calls = []
            for text in ("abc", "def", "ghi"):
                calls.append(asyncio.ensure_future(client.post("/score", json={"texts": [text]})))
                await asyncio.sleep(0.05)
            answers = await asyncio.gather(*calls)
            assert [one.status for one in answers] == [200, 504, 503]
            assert (await answers[0].json())["scores"] == [97.0]
            assert "deadline of 1 seconds" in (await answers[1].json())["error"]["message"]
            assert int(answers[2].headers["Retry-After"]) >= 1
            answer = await client.post("/score", json={"texts": ["n"]})
            assert answer.status == 500
            assert "not a finite number" in (await answer.json())["error"]["message"]

    asyncio.run(main())


def test_the_command_finishes_what_runs_and_ends_with_0(folder):
    with served(folder, "--batch-tokens", "1") as (process, url):
        port = int(url.rpartition(":")[2])
        again = subprocess.run(
            [sys.executable, "-m", "llmrl.cli", "serve", str(folder), "--port", str(port)],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert again.returncode == 2
        assert (
            again.stderr
            == f"llmrl: --port: {port} is in use on 127.0.0.1; expected a free port, or 0 to be given one\n"
        )
        body = json.dumps({"texts": ["1+2=3"] * 300}).encode()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)
            while b"llmrl_waiting_texts 0.0" in urllib.request.urlopen(f"{url}/metrics").read():
                time.sleep(0.01)  # until it runs
            process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["scores"]) == 300
        assert process.wait(60) == 0
