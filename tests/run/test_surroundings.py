"""What a start records of the files that it reads, and what the next one says of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from small_run import lay_out

from llmrl.recipe_file import Plan, load_plan
from llmrl.run import surroundings as module
from llmrl.run.surroundings import changes, digest, surroundings


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    lay_out(tmp_path)
    for name, text in {"config.json": "{}", "model.safetensors": "weights", ".hidden": ""}.items():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text(text)
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = "model={path: model, build: null, lora: null, chat_template: template.jinja}"
    return load_plan("small.yaml", ["run_dir=run", model])


def test_files_are_named_by_what_they_are(plan):
    found = surroundings(plan, ["warm_start", "rl"])["digests"]
    assert set(found["data"]) == {"sums.jsonl", "held_out.jsonl"}
    # rl starts from the model of warm_start, which is the run's own
    assert set(found["model"]) == {"model/config.json", "model/model.safetensors", "template.jinja"}
    assert surroundings(plan, ["rl"])["digests"]["model"].keys() == {"template.jinja"}


def test_each_change_is_said_and_changed_weights_are_refused(plan):
    before = surroundings(plan, ["warm_start"])
    assert changes(before, surroundings(plan, ["warm_start"])) == ([], [])
    for file in ("sums.jsonl", "model/config.json", "template.jinja", "model/model.safetensors"):
        with Path(file).open("a") as changed:
            changed.write(" ")
    now = surroundings(plan, ["warm_start"]) | {"cpu": "another", "gpus": ["H100", "H100"]}
    now["packages"] = now["packages"] | {"torch": "9.9"}
    since = f"changed since the start of {before['started']}"
    told, faults = changes(before, now)
    assert told == [
        f"warning: cpu {since}: {before['cpu']} -> another",
        f"warning: gpus {since}: none -> H100, H100",
        f"warning: packages {since}: torch {before['packages']['torch']} -> 9.9",
        f"warning: data {since}: sums.jsonl",
        f"warning: model {since}: model/config.json",
        f"warning: model {since}: template.jinja",
    ]
    assert faults == [f"model: model/model.safetensors {since}; restore it, or start another run with run_dir=..."]


def test_a_large_file_is_known_by_its_size_and_parts_of_it(tmp_path, monkeypatch):
    for name, value in {"WHOLE_BYTES": 40, "PARTS": 4, "PART_BYTES": 10}.items():
        monkeypatch.setattr(module, name, value)
    file, content = tmp_path / "weights", bytearray(100)
    file.write_bytes(content)
    known, seen = digest(file), []
    for place in range(100):
        content[place] = 1
        file.write_bytes(content)
        seen += [place] if digest(file) != known else []
        content[place] = 0
    assert seen == [*range(10), *range(30, 40), *range(60, 70), *range(90, 100)]
    file.write_bytes(bytes(101))
    assert digest(file) != known


def test_the_commit_of_the_recipes_repository_is_known(plan):
    assert surroundings(plan, [])["git"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "small.yaml"], [*identity, "commit", "-qm", "Add a recipe"]):
        subprocess.run(["git", *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert surroundings(plan, [])["git"] == commit
    Path("small.yaml").write_text("")
    assert surroundings(plan, [])["git"] == f"{commit} with uncommitted changes"
