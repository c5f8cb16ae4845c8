from __future__ import annotations

import pytest

from llmrl.columns import NoColumnError, column, root

ROW = {
    "model": {"truth": '{"inputs": [1], "meta": {"name": "f"}}', "text": "not JSON"},
    "model.style": "own",
    "note": '["a"]',
    "number": 5,
    "messages": [{"content": "a"}, '{"content": ["b", "c"]}'],
    "none": [],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 5),
        ("model.style", "own"),
        ("model.text", "not JSON"),
        ("model.truth", '{"inputs": [1], "meta": {"name": "f"}}'),  # the end of a path stays as it is
        ("model.truth.inputs", [1]),
        ("model.truth.meta.name", "f"),
        ("note.0", "a"),  # of a list as JSON text
        ("messages.0.content", "a"),
        ("messages.1.content.-1", "c"),
    ],
)
def test_a_path_reads_through_mappings_and_json(name, value):
    assert column(ROW, name) == value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numbre", "no column 'numbre'; did you mean 'number'? (columns: model, model.style, note, number,"),
        ("model.trut", "no column 'trut'; did you mean 'truth'? (columns: truth, text)"),
        ("model.truth.input", "no column 'input'; did you mean 'inputs'? (columns: inputs, meta)"),
        ("model.text.inner", "no column 'model.text.inner' (columns: model, model.style, note, number,"),
        ("note.inner", "no item 'inner' in a list, whose items are 0 to 0"),
        ("messages.2", "no item '2' in a list, whose items are 0 to 1"),
        ("messages.1.content.-3", "no item '-3' in a list, whose items are 0 to 1"),
        ("none.0", "no item '0' in a list, which is empty"),
        (
            "number.inner",
            "no column 'number.inner'; did you mean 'number'? (columns: model, model.style, note, number,",
        ),
    ],
)
def test_a_missing_name_is_told_with_the_nearest(name, message):
    with pytest.raises(NoColumnError) as caught:
        column(ROW, name)
    assert str(caught.value).startswith(message)


def test_the_root_of_a_path():
    assert root(ROW, "model.truth.inputs") is ROW["model"]
    assert root(ROW, "model.style") == "own"
    assert root(ROW, "nothing.here") is None
