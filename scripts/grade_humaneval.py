"""Grade HumanEval's solutions and mutants of them in three forms of tests, and compare with plain Python.

    python scripts/grade_humaneval.py HumanEval.jsonl.gz

The forms are the data's own `check(candidate)`, the calls that it makes as inputs and outputs, and the same calls on
stdin and stdout. Each solution must pass. A mutant has one operator, constant, result or statement changed; it must
pass exactly if plain Python, run here without a sandbox, finds no difference by the same tests. Prints a table and the
mistakes, and exits with 1 if there are any.
"""

from __future__ import annotations

import ast
import copy
import gzip
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrl.rewards.code.verifier import code_verifier

SECONDS = 4.0
SWAPS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
}
MAIN = "\nimport json as _json, sys as _sys\nprint(_json.dumps({name}(*_json.loads(_sys.stdin.read()))))\n"
ORACLE = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
row = json.load(sys.stdin)
found = {{"check": False, "calls": True, "stdin": True}}
names = {{}}
try:
    exec(row["source"], names)
    candidate = names[row["entry_point"]]
    for args, expected in row["calls"]:
        result = candidate(*args)
        text, wanted = json.dumps(result), json.dumps(expected)
        alike = json.loads(text) == expected
        found["calls"] &= alike
        numbers = {{type(result), type(expected)}} <= {{int, float}}
        found["stdin"] &= text == wanted or (numbers and alike)
except BaseException:
    found["calls"] = found["stdin"] = False
try:
    exec(row["source"] + "\\n" + row["test"], names)
    names["check"](names[row["entry_point"]])
    found["check"] = True
except BaseException:
    pass
print("\\n" + json.dumps(found))
""".format(seconds=int(SECONDS))


def calls_of(problem: dict[str, Any], source: str) -> list[tuple[list[Any], Any]]:
    """Return the calls that the problem's check makes of its solution, where their values are those of JSON."""
    names: dict[str, Any] = {}
    exec(source + problem["test"], names)
    solution, found = names[problem["entry_point"]], {}

    def candidate(*args: Any) -> Any:
        given = copy.deepcopy(args)
        result = solution(*args)
        call = json.dumps([given, result])
        if json.loads(call)[0] == list(given):
            found[call] = None
        return result

    names["check"](candidate)
    return [tuple(json.loads(call)) for call in found]


def mutants(source: str, name: str) -> Iterator[str]:
    """Yield one mutant of each kind of change: the first change of its kind in the function that alters its text."""
    tree = ast.parse(source)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    begin = 1 if ast.get_docstring(function) is not None else 0
    kinds, texts = set(), {ast.unparse(tree)}
    for node in [inner for statement in function.body[begin:] for inner in ast.walk(statement)]:
        for kind, field, changed in changes(node):
            before = getattr(node, field)
            setattr(node, field, changed)
            text = ast.unparse(tree)
            setattr(node, field, before)
            if kind not in kinds and text not in texts:
                kinds.add(kind)
                texts.add(text)
                yield text


def changes(node: ast.AST) -> Iterator[tuple[str, str, Any]]:
    """Yield a node's changes: their kind, and the field and its new value."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "comparison", "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        yield "operator", "op", SWAPS[type(node.op)]()
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        value = node.value
        yield "constant", "value", not value if isinstance(value, bool) else value + type(value)(1)
    if isinstance(node, ast.Return) and node.value is not None:
        yield "result", "value", ast.List([], ast.Load())
    if isinstance(node, ast.For | ast.While | ast.If) and not isinstance(node.body[-1], ast.Pass):
        yield "statement", "body", node.body[:-1] or [ast.Pass()]


def plain(problem: dict[str, Any], source: str, calls: list[Any]) -> dict[str, bool]:
    """Return what plain Python finds: for each form of the tests, whether the program passes."""
    row = json.dumps({**problem, "source": source, "calls": calls})
    failed = dict.fromkeys(("check", "calls", "stdin"), False)
    try:
        run = subprocess.run([sys.executable, "-c", ORACLE], input=row, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return failed
    lines = run.stdout.strip().splitlines()
    return json.loads(lines[-1]) if run.returncode == 0 and lines else failed


def graded(problem: dict[str, Any], source: str, calls: list[Any]) -> dict[str, str | None]:
    """Return the verifier's outcome for each form of the tests; without calls there is the first form alone."""
    name = problem["entry_point"]
    lists = {"inputs": [args for args, _ in calls], "outputs": [[result] for _, result in calls], "fn_name": name}
    texts = {"inputs": [json.dumps(args) for args, _ in calls], "outputs": [json.dumps(one) for _, one in calls]}
    rows: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "check": (source, problem, {"tests": "test", "entry_point": "entry_point"}),
        "calls": (source, {"tests": lists}, {}),
        "stdin": (source + MAIN.format(name=name), {"tests": texts}, {}),
    }
    return {
        form: code_verifier(f"```python\n{text}\n```", row, cpu_seconds=SECONDS, thoughts_end="", **settings).outcome
        for form, (text, row, settings) in rows.items()
        if calls or form == "check"
    }


def main(path: Path) -> int:
    """Print the table and the mistakes; returns the exit code."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    table: dict[str, Counter[str]] = {form: Counter() for form in ("check", "calls", "stdin")}
    mistakes, gradings, start = [], 0, time.perf_counter()
    told_apart: dict[str, set[str]] = {form: set() for form in table}
    for problem in problems:
        solution = problem["prompt"] + problem["canonical_solution"]
        calls = calls_of(problem, solution)
        for source in (solution, *mutants(solution, problem["entry_point"])):
            expected = dict.fromkeys(table, True) if source is solution else plain(problem, source, calls)
            for form, outcome in graded(problem, source, calls).items():
                passed, kind = outcome == "passed", "solution" if source is solution else "mutant"
                gradings += 1
                table[form][f"{kind}s that must {'pass' if expected[form] else 'fail'}"] += 1
                if not expected[form]:
                    told_apart[form].add(problem["task_id"])
                if passed != expected[form]:
                    mistakes.append(f"{problem['task_id']}, {form}: a {kind} is graded {outcome}:\n{source}")
    print(
        f"{len(problems)} problems, {gradings} gradings, {time.perf_counter() - start:.0f} s, {len(mistakes)} mistakes"
    )
    for form, counts in table.items():
        found = ", ".join(f"{count} {what}" for what, count in counts.items())
        print(f"  {form}: {found}; {len(told_apart[form])} problems have a mutant that must fail")
    print("\n\n".join(mistakes))
    return bool(mistakes)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
