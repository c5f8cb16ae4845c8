import json
import re

import pytest

from llmrl.errors import RecipeError
from llmrl.models.kinds import LANGUAGE_MODEL, PREFERENCE_MODEL, REWARD_MODEL, STEP_REWARD_MODEL, expect

HELD = {
    "causal": ({"architectures": ["Qwen3ForCausalLM"]}, LANGUAGE_MODEL),
    "scores": ({"architectures": ["Qwen3ForSequenceClassification"]}, REWARD_MODEL),
    "steps": ({"architectures": ["Qwen3ForTokenClassification"]}, STEP_REWARD_MODEL),
    "pairs": ({"architectures": ["Qwen3ForSequenceClassification"], "compares_answers": True}, PREFERENCE_MODEL),
}


@pytest.fixture
def root(tmp_path):
    for name, (config, _) in HELD.items():
        (tmp_path / name / "final").mkdir(parents=True)
        (tmp_path / name / "final" / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("kind", [kind for _, kind in HELD.values()], ids=list(HELD))
def test_a_folder_is_of_one_kind(root, kind):
    for name, (_, own) in HELD.items():
        if own == kind:
            expect(root / name / "final", kind)
        else:
            with pytest.raises(RecipeError, match=f"{name}/final' holds "):
                expect(root / name / "final", kind)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("scores", "scores/final"), ("score/final", "scores/final"), ("scores/finals", "scores/final"), ("xyz", None)],
)
def test_a_folder_without_a_model_names_the_nearest_one_with_one(root, given, meant):
    hint = f"; did you mean '{root / meant}'?" if meant else ""
    fault = f"'{root / given}' has no config.json; expected the folder of a trained reward model of completions{hint}"
    with pytest.raises(RecipeError, match=f"^{re.escape(fault)}$"):
        expect(root / given, REWARD_MODEL)


def test_a_config_that_is_no_mapping(root):
    (root / "scores" / "final" / "config.json").write_text("[1]")
    with pytest.raises(RecipeError, match=r"config\.json' cannot be read"):
        expect(root / "scores" / "final", REWARD_MODEL)
