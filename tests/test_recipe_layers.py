"""YAML texts that no reader could use: refused with their place, in one line."""

from __future__ import annotations

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe_layers import LARGEST, yaml_value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 2001-99-99\n", "not valid YAML: month must be in 1..12"),
        ("a: 1\nseed: 9223372036854775808\n", "line 2: '9223372036854775808' is beyond 64 bits"),
        (f"seed: 0x{'f' * 5000}\n", "is beyond 64 bits"),
        (f"seed: {'9' * 5000}\n", "is beyond 64 bits"),
        ('summary: "a \\ud800"\n', "line 1: 'a \\ud800' holds half of a surrogate pair"),
        (f"seed: {'[' * 200}{']' * 200}\n", "holds values nested deeper than 50 levels"),
        (f"seed: {'{a: ' * 3000}\n", "nested too deeply to be read"),
        ("seed: &x [*x]\n", "holds values nested deeper than 50 levels"),
        (
            "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['1'] * 9)}]\n" for n in range(9)),
            "holds more than 100000 values, with what its anchors stand for",
        ),
    ],
)
def test_a_value_that_nothing_could_be_done_with_is_refused(text, message):
    with pytest.raises(RecipeError) as caught:
        yaml_value(text, "r.yaml")
    [fault] = caught.value.faults
    assert fault.startswith("r.yaml: ") and message in fault and len(fault) < 200


def test_values_that_are_long_and_sound_are_read():
    assert yaml_value(f"a: {LARGEST}\nb: -{LARGEST}\nc: 0x10\nd: 1e-5", "r.yaml") == {
        "a": LARGEST,
        "b": -LARGEST,
        "c": 16,
        "d": 1e-5,
    }
    assert yaml_value(f"a: {['x'] * 10_000}", "r.yaml") == {"a": ["x"] * 10_000}
    assert yaml_value('a: &one {b: "\\U0001F600"}\nc: *one', "r.yaml") == {"a": {"b": "😀"}, "c": {"b": "😀"}}
