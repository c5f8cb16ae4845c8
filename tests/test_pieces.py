"""Functions that a recipe names: what they read, what may be set, and what is said of mistakes."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

import llmrl.pieces as pieces_module
from llmrl.errors import RecipeError
from llmrl.pieces import bind, catalogue, resolve, split_spec


def scaled(values: int, offsets: int, *, factor: float = 2.0, power: Annotated[int, Field(ge=1)] = 1) -> float:
    return factor * values**power + offsets


def demanding(values, *, length: int):
    return length


VALID = {"scaled": scaled, "demanding": demanding}


def find(spec):
    return resolve(spec, VALID, key="reduce", what="reduction")


def fault(spec) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        find(spec)
    return caught.value.faults


def test_positional_parameters_are_data_and_the_rest_settings():
    piece = find({"scaled": {"factor": 3}})
    assert piece.data == ("values", "offsets")
    # 3 * 5^1 + 7 = 22; what the piece does not read is not passed
    assert piece({"values": 5, "offsets": 7, "other": None}) == 22.0


def test_both_spellings_are_one():
    assert split_spec("scaled", "k") == split_spec({"scaled": None}, "k") == split_spec({"scaled": {}}, "k")
    assert find("scaled") == find({"scaled": None})


def test_settings_are_converted_and_checked():
    assert find({"scaled": {"factor": "1.5"}}).settings == {"factor": 1.5}
    assert fault({"scaled": {"factor": "x"}})[0].startswith("reduce.scaled.factor: 'x' is not valid: Input should be")
    assert fault({"scaled": {"power": 0}})[0].startswith("reduce.scaled.power: 0 is not valid")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scald", "reduce: no reduction named 'scald'; did you mean 'scaled'?"),
        ("zzz", "reduce: no reduction named 'zzz'; valid: demanding, scaled"),
        ({"scaled": {"facto": 1}}, "reduce.scaled: no setting 'facto' (value 1); did you mean 'factor'?"),
        ({"scaled": {"zzz": 1}}, "reduce.scaled: no setting 'zzz' (value 1); settings: factor, power"),
        ({"scaled": {"values": 1}}, "reduce.scaled: no setting 'values' (value 1); settings: factor, power"),
        ("demanding", "reduce.demanding: setting 'length' has no default and must be given"),
        ({"scaled": {}, "demanding": {}}, "reduce: expected one name, got 2 (scaled, demanding)"),
        ({}, "reduce: expected one name, got 0 (none)"),
        ("math:no_such", "reduce: cannot import 'math:no_such': AttributeError"),
        ("no_such_module:f", "reduce: cannot import 'no_such_module:f': ModuleNotFoundError"),
        ("math:pi", "reduce: 'math:pi' is a float, expected a function"),
        ("torch:zeros_like", "reduce: 'torch:zeros_like' does not say what it takes; wrap it in a Python function"),
    ],
)
def test_mistakes_are_named_with_the_nearest(spec, message):
    found = fault(spec)
    assert len(found) == 1 and found[0].startswith(message)


def test_every_wrong_setting_is_told():
    assert len(fault({"scaled": {"facto": 1, "power": 0}})) == 2


def test_a_function_of_ones_own_is_found_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "triple_pieces.py").write_text("def triple(values, *, times: int = 3):\n    return values * times\n")
    (tmp_path / "broken_pieces.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find({"triple_pieces:triple": {"times": 4}})({"values": 2}) == 8
    assert "did you mean 'times'?" in fault({"triple_pieces:triple": {"time": 4}})[0]
    assert fault("triple_pieces:tripel")[0].endswith("has no attribute 'tripel'; did you mean 'triple'?")
    assert fault("tripel_pieces:triple")[0].endswith("No module named 'tripel_pieces'; did you mean 'triple_pieces'?")
    assert fault("broken_pieces:f")[0].startswith("reduce: cannot import 'broken_pieces:f': SyntaxError")


def test_a_catalogue_has_a_modules_own_public_functions():
    found = catalogue(pieces_module)
    assert {"bind", "resolve", "catalogue"} <= set(found)
    assert not {"_import", "nearest", "dataclass", "Piece"} & set(found)


def test_unresolvable_annotations_leave_settings_unchecked():
    def loose(values, *, kind: NoSuchName = 1):  # noqa: F821
        return kind

    assert bind("loose", loose, {"kind": "anything"}, key="k")({"values": 0}) == "anything"
