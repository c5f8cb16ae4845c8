from __future__ import annotations

import time

import pytest

from llmrl.rewards.code.extraction import program


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


@pytest.mark.parametrize("language", ["python", "py", "python3", "Python", " python", "python title=x", "{.python}"])
def test_a_python_block(language):
    assert program(f"So:\n\n{fenced('x = 1', language)}\nDone.") == "x = 1\n"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        # the last block of Python, whatever else follows
        (fenced("first") + "\n" + fenced("second"), "second\n"),
        (fenced("x = 1") + "\nprints\n" + fenced("1", "text"), "x = 1\n"),
        (fenced("x = 1") + "\nprints\n" + fenced("1", ""), "x = 1\n"),
        # without a block of Python, the last block counts
        (fenced("x = 1", "") + "\n" + fenced("y = 2", ""), "y = 2\n"),
        (fenced("int x;", "cpp"), "int x;\n"),
        # there is no block, or the last block was cut short
        ("x = 1", None),
        ("", None),
        ("use `x` or ``` in a line", None),
        ("```python\nx = 1", None),
        (fenced("draft") + "\n```python\nx = 1", None),
        ("```\nx = 1", None),
        (fenced("x = 1") + "\nwhich prints\n```\n1", "x = 1\n"),
        # two blocks of which the first was left open
        ("```python\ndraft\nBetter:\n" + fenced("x = 1"), "x = 1\n"),
        # code that holds backticks
        (fenced('"""\n    ```\n    x\n    ```\n"""\ny'), '"""\n    ```\n    x\n    ```\n"""\ny\n'),
        (fenced('"""\n    ```python\n    x\n    ```\n"""\ny'), '"""\n    ```python\n    x\n    ```\n"""\ny\n'),
        (fenced("s = '```'"), "s = '```'\n"),
        ("````python\nx\n```\ny\n````", "x\n```\ny\n"),
        ("~~~python\nx\n```\ny\n~~~", "x\n```\ny\n"),
        # in a list, indented
        ("1. so\n   ```python\n   if x:\n       y\n\n   z\n   ```\n", "if x:\n    y\n\nz\n"),
        ("1. ```python\n   if x:\n       y\n   ```\n   so", "if x:\n    y\n"),
        ("- ```\n  x\n  ```", "x\n"),
        # a closing fence may be indented further than the opening one
        ("```python\nx = 1\n   ```\n", "x = 1\n"),
        ("- so\n  ```python\n  x = 1\n      ```\n", "x = 1\n"),
        ("```python\nx = 1\n        ```\nIt prints\n```\n1\n```", "x = 1\n"),
        ("```python\nx = '''a''' + \"\"\"b\"\"\"\n\t```", "x = '''a''' + \"\"\"b\"\"\"\n"),
        ("```python\ndraft\n    ```python\n    x = 1\n    ```", "x = 1\n"),
        (fenced("'''\n    \"\"\"\n    ```\n'''\ny"), "'''\n    \"\"\"\n    ```\n'''\ny\n"),
        ("```python\nx = 1\n- ```\n```", "x = 1\n- ```\n"),
        # the body of a function keeps its indentation
        (fenced("    return 1"), "    return 1\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\n"),
        ("```python\n```", "\n"),
        ("```python\nx = 1\n``` and that is all of it", "x = 1\n"),
    ],
)
def test_fenced(completion, expected):
    assert program(completion) == expected


@pytest.mark.parametrize(
    ("completion", "prompt", "settings", "expected"),
    [
        (f"<think>{fenced('draft')}</think>\n{fenced('x')}", "", {}, "x\n"),
        (f"<think>{fenced('draft')}</think>\nno code", "", {}, None),
        (f"<think>maybe\n{fenced('draft')}\nbut let me", "", {}, None),
        (f"{fenced('draft')}\nbut let me", "Solve it.<think>\n", {}, None),
        (f"{fenced('draft')}</think>{fenced('x')}", "Solve it.<think>\n", {}, "x\n"),
        (f"{fenced('draft')}<end>{fenced('x')}", "", {"thoughts_end": "<end>"}, "x\n"),
        (f"<think>\n{fenced('x')}", "", {"thoughts_end": ""}, "x\n"),
        ("<think>draft</think>    return 1", "", {"extract": "all"}, "    return 1"),
        ("<think>draft", "", {"extract": "all"}, None),
        ("<answer>draft</answer></think><answer>x</answer>", "", {"extract": "tag"}, "x"),
        ("<think><answer>draft</answer>", "", {"extract": "tag", "partial": True}, None),
    ],
)
def test_only_what_follows_the_thoughts_counts(completion, prompt, settings, expected):
    assert program(completion, prompt, **settings) == expected


def test_all_is_the_completion_as_it_stands():
    assert program("    return 1\n", extract="all") == "    return 1\n"
    assert program(fenced("x"), extract="all") == fenced("x")


def test_tags():
    assert program("<answer>x = 1</answer>", extract="tag") == "x = 1"
    assert program(f"<answer>\n{fenced('x = 1')}\n</answer>", extract="tag") == "x = 1\n"
    assert program(f"{fenced('draft')}<code>y</code>", extract="tag", tag="code") == "y"
    assert program("<answer>x = 1", extract="tag") is None
    assert program(fenced("x = 1"), extract="tag") is None
    assert program("<answer>\n```python\nx\n</answer>", extract="tag") is None


@pytest.mark.parametrize(
    "text",
    [
        "```python\n" * 200_000,
        "`" * 2_000_000,
        "```" + " " * 2_000_000 + "`",
        (" " * 1000 + "\n") * 2000,
        " " * 2_000_000 + "```",
        "```python\n" + "x = 1\n" * 300_000 + "```",
        "```" + "{ " * 1_000_000,
        "```python\n" + ('"""' * 3 + "\n    ```python\n") * 100_000,
        "```python\n" + "'" * 2_000_000 + "\n    ```",
    ],
    ids=lambda text: text[:12],
)
def test_any_text_takes_linear_time(text):
    start = time.process_time()
    program(text)
    assert time.process_time() - start < 3
