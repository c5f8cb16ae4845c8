"""Broken inputs of the llmrl command, made from sound recipes, rows and command lines by a seed."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from llmrl.axes import AXES
from llmrl.recipe_faults import keys_at
from llmrl.recipe_file import methods
from llmrl.rewards.catalogue import CATALOGUE as REWARDS

RECIPES = Path(__file__).parent.parent / "recipes"
MODEL = {
    "build": {
        "characters": "".join(map(chr, range(32, 127))) + "\n",
        "config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 512,
        },
    }
}
TESTS = {"fn_name": "f", "inputs": [[1], [2]], "outputs": [2, 3]}
ROWS: dict[str, dict[str, Any]] = {
    "math_verifier": {"question": "1+1=", "answer": "2"},
    "exact_match": {"question": "The colour of snow?", "answer": "white"},
    "f1": {"question": "The colour of snow?", "answer": ["white", "pure white"]},
    "choice_letter": {"question": "Which is even? A) 1 B) 2", "answer": "B"},
    "code_verifier": {"question": "Add one.", "answer": "def f(x):\n    return x + 1", "tests": TESTS},
    "instruction_following": {
        "question": "Write in lower case.",
        "answer": "yes",
        "instruction_id_list": ["change_case:english_lowercase"],
        "kwargs": [{}],
    },
}
"""A sound row for each reward."""


class Number(str):
    """The text of a number that Python cannot print."""


yaml.add_representer(
    Number, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:int", text), Dumper=yaml.SafeDumper
)
LONG = Number("9" * 5000)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 10**18, 10**400, LONG, 0.5, -0.0, 1e-320, 1e308),
    *(float("nan"), float("inf"), float("-inf"), b"\xff\x00"),
    *("", " ", "x" * 20_000, "\ud800", "a\udc00b", "\x00", "\x1b[31mred", "\u2028", "😀", "é", "ﷺ" * 50),
    *("{question", "{}", "{0}", "{question!r:>9}", "{question.a.b}", "${training.steps}", "${nope}", "$", "%s"),
    *("a:b", ":", "os:getcwd", "math:nan", "no_such_module:f", ".", "..", "/", "~", "[bold", "[/]", "*", "(", "null"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": [1, {"c": None}]}}, ["x"] * 500, {1: 2}, {None: 1}, [LONG]),
)
"""Values that some reader may not expect."""
MILD: tuple[Any, ...] = (
    0,
    -7,
    2.5,
    True,
    None,
    "",
    "12",
    "B",
    "x y",
    "\\frac{1}{2}",
    "1e400",
    "é" * 40,
    ["2", 3],
    {"a": 1},
)
"""Values that many readers take, so that what comes after them is reached."""
ODD_TEXTS = (
    *("\t", "\x00", "\ufeff", "\r", "\u2028", "&a ", "*a", "<<: ", "!!python/object:os.system ", "!!set ", "? ", "- "),
    *("{", "}", "[", "]", '"', "'", "|", ">", "%YAML 9.9\n", "---\n", "...\n", "@", "`", "!!binary ", "2001-99-99"),
    *("include: recipe.yaml\n", "stages: {a: {}}\n", "? [a, b]\n: c\n", "x: &x [*x]\n", "a: 1\na: 2\n", "1: 2\n"),
    *("9" * 5000, "0x" + "f" * 5000, "1e999999", ".nan", "-.inf", "[" * 3000, "{a: " * 500, "1:30:00", "\\ud800"),
)


@dataclass
class Case:
    """One call of the command: what was broken, the files around it, its arguments."""

    mutation: str
    files: dict[str, bytes]
    arguments: list[str]
    more: list[str] = field(default_factory=list)


def case(seed: int) -> Case:
    """The broken input of a seed."""
    dice = random.Random(seed)
    kinds: tuple[Callable[[random.Random], Case], ...] = (broken_tree, broken_text, broken_rows, broken_command)
    return dice.choices(kinds, weights=(5, 3, 5, 2))[0](dice)


def sound(reward: str = "math_verifier") -> dict[str, Any]:
    """A recipe of everything that is quick to check."""
    return {
        "model": copy.deepcopy(MODEL),
        "data": {"train": {"path": "rows.jsonl"}, "eval": {"path": "held_out.jsonl"}},
        "method": "grpo",
        "rewards": {reward: {}},
        "rollout": {
            "engine": "transformers",
            "prompts_per_step": 2,
            "group_size": 2,
            "max_prompt_tokens": 128,
            "max_completion_tokens": 16,
        },
        "training": {"steps": 1, "learning_rate": 1e-3, "threads": 1},
    }


def _shipped(dice: random.Random) -> dict[str, Any]:
    """A shipped recipe, with a model and a number of rows that are quick to check; or the sound one with more keys."""
    files = sorted(RECIPES.rglob("*.yaml"))
    file = dice.choice([None, None, *files])
    if file is None:
        recipe = sound()
        recipe["method"] = dice.choice(sorted(methods()))
        if dice.random() < 0.3:
            recipe["roles"] = {"actor": {}, "judge": {"trained": False}}
        if dice.random() < 0.3:
            recipe["stages"] = {"one": {"training": {"steps": 2}}, "two": {"method": "rloo"}}
        if dice.random() < 0.3:
            recipe["env"] = {"python_tool": {"max_calls": 2}}
        if dice.random() < 0.2:
            recipe["model"]["lora"] = {"rank": 4}
        return recipe
    recipe = _parsed(file)
    if "include" in recipe:
        recipe = _parsed(file.parent / str(recipe.pop("include"))) | recipe
    recipe["model"] = copy.deepcopy(MODEL)
    recipe["data"] = {name: part if "task" in part else {"path": "rows.jsonl"} for name, part in recipe["data"].items()}
    for holder, key, _ in list(_places(recipe)):
        if key == "size":
            holder[key] = 8
    return recipe


def _parsed(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def broken_tree(dice: random.Random) -> Case:
    """A recipe of which one to three keys or values are changed, dropped, moved or added."""
    recipe = _shipped(dice)
    said = [_break_tree(recipe, dice) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
    text = yaml.dump(recipe, Dumper=yaml.SafeDumper, sort_keys=False)
    return Case("; ".join(said), _files(text.encode(), dice), ["check", "recipe.yaml"])


def _break_tree(recipe: dict[str, Any], dice: random.Random) -> str:
    holder, key, path = dice.choice(list(_places(recipe)))
    how = dice.choice(("odd", "odd", "odd", "drop", "rename", "wrap", "add", "swap", "negate"))
    if how == "add":
        valid = [name for name in keys_at(path[:-1]) if name != "include"] or ["weight", "rows"]
        key = dice.choice([*valid, *(axis.key for axis in AXES)])
        value = dice.choice([*ODD, *({name: {}} for name in REWARDS)])
        _set(holder, key, value, dice)
        return f"{'.'.join([*path[:-1], str(key)])} added as {value!r:.60}"
    at = ".".join(path)
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[dice.choice((str(key)[:-1], f"{key}s", "x", 1, None, "", True, "\ud800", "a.b"))] = holder.pop(key)
    elif how == "wrap":
        holder[key] = dice.choice(([holder[key]], {"x": holder[key]}, {str(key): holder[key]}, str(holder[key])))
    elif how == "swap":
        other, name, _ = dice.choice(list(_places(recipe)))
        holder[key] = copy.deepcopy(other[name])
    elif how == "negate" and isinstance(holder[key], int | float):
        holder[key] = dice.choice((-holder[key], holder[key] * 10**12, holder[key] / 1e12, str(holder[key])))
    else:
        holder[key] = dice.choice(ODD)
    return f"{at} {how}: {repr(holder[key])[:60] if isinstance(holder, dict) and key in holder else ''}"


def _set(holder: Any, key: Any, value: Any, dice: random.Random) -> None:
    if isinstance(holder, dict):
        holder[key] = value
    else:
        holder.insert(dice.randint(0, len(holder)), value)


def _places(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any, list[str]]]:
    """Every holder, with each of its keys and the path to the key."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield node, key, [*path, str(key)]
        yield from _places(value, (*path, str(key)))


def broken_text(dice: random.Random) -> Case:
    """A recipe whose text has characters put in, cut, doubled or replaced, or bytes that are no text."""
    text = yaml.dump(_shipped(dice), Dumper=yaml.SafeDumper, sort_keys=False)
    said = []
    for _ in range(dice.choice((1, 1, 2))):
        at, length = dice.randrange(len(text)), dice.choice((0, 1, 1, 5, 40))
        line = text.rfind("\n", 0, at) + 1
        put, at = dice.choice(ODD_TEXTS), dice.choice((at, line))
        text = text[:at] + put + text[at + length :]
        said.append(f"{length} characters at {at} became {put[:20]!r}")
    raw = text.encode()
    if dice.random() < 0.2:
        at = dice.randrange(len(raw))
        raw = dice.choice((raw[:at], raw[:at] + b"\xff" + raw[at:], text.encode("utf-16"), b"", raw + raw, b"\x00"))
        said.append("bytes")
    return Case("; ".join(said), _files(raw, dice), ["check", "recipe.yaml"])


def broken_rows(dice: random.Random) -> Case:
    """Rows of which values, columns or bytes are changed, in a file of some format."""
    reward = dice.choice(list(ROWS))
    rows = [copy.deepcopy(ROWS[reward]) for _ in range(6)]
    said = []
    for _ in range(dice.choice((0, 1, 1, 2))):
        touched = dice.choice((rows, rows[:1], rows[3:4]))
        column = dice.choice([*rows[0], "extra"])
        value = dice.choice(dice.choice((MILD, (*ODD, [1] * 99, _deep(200)))))
        how = dice.choice(("set", "set", "set", "drop", "inside"))
        for row in touched:
            if how == "drop":
                row.pop(column, None)
            elif how == "inside" and isinstance(row.get(column), dict | list) and row[column]:
                holder, key, _ = dice.choice(list(_places(row[column])))
                holder[key] = value
            else:
                row[column] = value
        said.append(f"{len(touched)} x {column} {how} {value!r:.60}")
    suffix, raw = _written(rows, dice)
    if dice.random() < 0.25 and raw:
        at = dice.randrange(len(raw))
        damaged = {
            "cut": raw[:at],
            "byte": raw[:at] + dice.choice((b"\xff", b"\x00", b"\r", b'"', b"\\", b"\xed\xa0\x80")) + raw[at:],
            "nest": raw + b"[" * 50_000,
            "mark": b"\xef\xbb\xbf" + raw,
            "utf-16": raw.decode("latin-1").encode("utf-16"),
            "empty": b"",
            "blank": b"\n \n",
            "joined": raw.replace(b"\n", b""),
            "long": b"x" * 300_000,
            "twice": raw + raw,
        }
        how = dice.choice(list(damaged))
        raw = damaged[how]
        said.append(f"bytes: {how} at {at}")
    recipe = sound(reward)
    recipe["data"]["train"]["path"] = f"rows{suffix}"
    train = recipe["data"]["train"]
    if dice.random() < 0.3:
        train["prompt"] = dice.choice(("{question}\n{answer}", "question.a", "extra", "{extra}", "tests", "answer"))
    if dice.random() < 0.2:
        train["few_shot"] = dice.choice((1, 2, 5, 6, 7, [rows[0]], [{}]))
    if dice.random() < 0.2:
        train["answer_after"] = dice.choice(("#", "", " ", "="))
    if dice.random() < 0.2:
        train["limit"] = dice.choice((1, 2, 100))
    if dice.random() < 0.25:
        recipe |= {"method": "sft", "rewards": recipe["rewards"] if dice.random() < 0.5 else {}}
        train["completion"] = dice.choice(("answer", "{answer}!", "extra"))
    text = yaml.dump(recipe, Dumper=yaml.SafeDumper, sort_keys=False)
    command = "train" if dice.random() < 0.1 else "check"
    held_out = ROWS[reward] | {"question": f"{ROWS[reward]['question']} Once more:"}
    files = _files(text.encode(), dice) | {f"rows{suffix}": raw, "held_out.jsonl": _lines([held_out])}
    return Case(f"{suffix} of {reward}: {'; '.join(said)}", files, [command, "recipe.yaml"])


def _deep(levels: int) -> Any:
    node: Any = 1
    for _ in range(levels):
        node = [node]
    return node


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(_json(row) + "\n" for row in rows).encode()


def _json(value: Any) -> str:
    text = json.dumps(value, default=lambda odd: f"{odd}")
    return text.replace(f'"{LONG}"', LONG)  # a number of 5,000 digits, which Python itself refuses to print


def _written(rows: list[dict[str, Any]], dice: random.Random) -> tuple[str, bytes]:
    """A file's suffix and bytes; rows that a format cannot hold are written as JSON lines."""
    suffix = dice.choice((".jsonl", ".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"))
    if suffix == ".csv":
        return suffix, _csv(rows)
    if suffix == ".parquet":
        table = io.BytesIO()
        try:
            pq.write_table(pa.Table.from_pylist(rows), table)
            return suffix, table.getvalue()
        except Exception:  # a value that arrow has no type for
            suffix = ".jsonl"
    if suffix == ".json":
        return suffix, ("[" + ",".join(_json(row) for row in rows) + "]").encode()
    lines = _lines(rows)
    return suffix, gzip.compress(lines) if suffix == ".jsonl.gz" else lines


def _csv(rows: list[dict[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join(",".join(_quoted(cell) for cell in line) for line in lines).encode("utf-8", "surrogatepass")


def _quoted(cell: Any) -> str:
    text = str(cell) if isinstance(cell, str | int | float) else _json(cell)
    return '"' + text.replace('"', '""') * (20 if len(text) > 10_000 else 1) + '"'


def broken_command(dice: random.Random) -> Case:
    """A sound recipe, and a command line with odd overrides, flags, names or files."""
    odd = [json.dumps(value, default=str) if not isinstance(value, str) else value for value in ODD if value != 10**400]
    keys = ["training.steps", "a.b.c", "", ".", "training..steps", "rewards", "rewards.math_verifier.weight", "stages"]
    keys += ["stages.train.seed", "roles.actor", "data.train.path", "data.train", "model", "include", "method", "seed"]
    words = [text.replace("\x00", "") for text in odd if len(text) < 30_000]
    override = f"{dice.choice(keys)}{dice.choice(('=', '=', '=', '', '=='))}{dice.choice(words)}"
    file = dice.choice(("recipe.yaml", "recipe.yaml", "folder", "none.yaml", "", "locked.yaml", "rows.jsonl", "a\nb"))
    word = dice.choice([*words, "grpo", "grp", "math_verifier", "rewards", "pieces", "--json", "--help", "-x"])
    lines = [
        ["check", "recipe.yaml", override],
        ["check", "recipe.yaml", override, dice.choice(words)],
        ["check", file, override],
        ["check", file],
        ["check", "recipe.yaml", "--nproc", word],
        ["check", "recipe.yaml", "--dump", override],
        ["train", "recipe.yaml", "--nproc", dice.choice(("0", "-1", "x", "1.5", "9" * 5000))],
        ["train", dice.choice(("none.yaml", "folder", "rows.jsonl")), "--resume"],
        ["train", "recipe.yaml", f"run_dir={dice.choice(('rows.jsonl', 'rows.jsonl/run', 'sealed/run'))}"],
        ["train", "recipe.yaml", "--overwrite", "run_dir=folder"],
        ["train", "recipe.yaml", "--resume", "--overwrite", "training.steps=1"],
        ["train", "recipe.yaml", "--resume", "training.steps=0"],
        ["methods", word],
        ["list", word],
        ["list", dice.choice(("rewards", "envs", "pieces", "tasks", "recipes", "reward")), word],
        ["prove", word, "--tasks", dice.choice(words), "--folder", "folder/file"],
        ["prove", "grpo", "--seeds", dice.choice(("x", "1,x", "-", "1.5", "9" * 5000)), "--folder", "out"],
        ["sandbox", "--tier", word or "x"],
        [word],
        [word, word],
        ["--version", word],
        [],
    ]
    arguments = dice.choice(lines)
    text = yaml.dump(sound(), Dumper=yaml.SafeDumper, sort_keys=False)
    return Case(f"llmrl {' '.join(arguments):.200}", _files(text.encode(), dice), arguments)


def _files(recipe: bytes, dice: random.Random) -> dict[str, bytes]:
    rows = _lines([ROWS["math_verifier"] | {"question": f"{n}+1=", "answer": str(n + 1)} for n in range(5)])
    held_out = _lines([{"question": "7+1=", "answer": "8"}])
    return {"recipe.yaml": recipe, "rows.jsonl": rows, "held_out.jsonl": held_out, "folder/file": b"kept"}
