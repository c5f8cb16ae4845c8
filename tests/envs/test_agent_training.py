"""smolagents, trained by a real run through the endpoint: its tokens, log-probabilities and texts are the policy's."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import smolagents
import torch
from rich.console import Console

from llmrl.models.loading import character_tokenizer
from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

TEMPLATE = """{%- for m in messages -%}
{{- m.content -}}{%- if m.role == "assistant" -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}"""
RECIPE = f"""
method: grpo
model:
  build:
    config: {{hidden_size: 48, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
      num_key_value_heads: 2, head_dim: 32, initializer_range: 0.05, tie_word_embeddings: true,
      max_position_embeddings: 4096}}
    characters: {json.dumps(string.printable)}
  chat_template: chat.jinja
data: {{train: {{path: train.jsonl}}, eval: {{path: eval.jsonl}}}}
env: {{agent: {{function: "{__name__}:adder", max_tokens: 12}}}}
rewards: {{"{__name__}:digits": {{}}}}
regularizers: {{kl_k3: null}}
rollout: {{engine: transformers, prompts_per_step: 2, group_size: 3, max_prompt_tokens: 1300,
  max_completion_tokens: 1200, temperature: 0.9}}
training: {{steps: 2, learning_rate: 1.0e-3, threads: 1}}
evaluation: {{every: 2}}
"""
SHORT: smolagents.PromptTemplates = {**smolagents.agents.EMPTY_PROMPT_TEMPLATES, "system_prompt": "Add."}
TOLD: list[str] = []
"""What the agents' clients received."""


class Heard(smolagents.OpenAIServerModel):
    def generate(self, *args, **kwargs):
        found = super().generate(*args, **kwargs)
        TOLD.append(found.content)
        return found


def adder(base_url: str, api_key: str, question: str) -> str:
    """Two steps, both of which the untrained model spends on what is no code, and the answer that ends the task."""
    model = Heard("policy", api_base=base_url, api_key=api_key, temperature=0.9)
    agent = smolagents.CodeAgent([], model, prompt_templates=SHORT, max_steps=2, verbosity_level=-1)
    return str(agent.run(question))


def digits(completion: str) -> float:
    return sum(letter.isdigit() for letter in completion) / 12


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder, threads = tmp_path_factory.mktemp("smolagents"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("chat.jinja").write_text(TEMPLATE)
        Path("recipe.yaml").write_text(RECIPE)
        for part, numbers in (("train", "12"), ("eval", "3")):
            rows = [{"question": f"{number}+1=", "answer": str(int(number) + 1)} for number in numbers]
            Path(f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        said = io.StringIO()
        code = run_plan(load_plan("recipe.yaml", ["run_dir=run"]), resume=False, console=Console(file=said))
    torch.set_num_threads(threads)
    assert code == 0, said.getvalue()
    return folder / "run"


def test_the_trainers_log_probabilities_are_those_of_the_recorded_tokens(run):
    rows = [row for row in RunReader(run).metrics if row["step"] > 0]
    assert len(rows) == 2
    for row in rows:
        assert (row["failures"], row["env/calls"], row["env/refused_requests"]) == (0, 3, 0)
        assert row["env/other_sampling"] == 0
        assert row["mismatch_max"] < 1e-4
        assert row["grad_norm"] > 0


def test_what_the_agent_was_told_is_the_decoding_of_the_recorded_tokens(run):
    tokenizer = character_tokenizer(string.printable)
    found = [row for file in sorted((run / "rollouts").iterdir()) for row in pq.read_table(file).to_pylist()]
    turns = [turn for row in found for turn in row["turns"] if turn["author"] == "actor"]
    texts = [tokenizer.decode(turn["token_ids"]).removesuffix("<eos>") for turn in turns]
    assert len(texts) == 3 * len({(row["step"], row["kind"], row["prompt_id"], row["episode"]) for row in found})
    assert sorted(texts) == sorted(TOLD)
    assert {row["completion"] for row in found} <= set(TOLD)


def test_smolagents_rewrites_its_history_so_that_contexts_split(run):
    """A CodeAgent writes a tag behind each answer of its model, so that no request repeats one as it was sampled; its
    last call has another system prompt and is a trajectory of its own."""
    rows = [row for file in (run / "rollouts").iterdir() for row in pq.read_table(file).to_pylist()]
    for row in rows:
        if row["compared"]:
            assert [turn["author"] for turn in row["turns"]] == ["actor"]
            continue
        first, told, second = row["turns"]
        assert told["restarts"]
        assert f"{first['text'].lstrip()}</code>" in told["text"]
        assert (first["author"], told["author"], second["author"]) == ("actor", "environment", "actor")
    assert sum(bool(row["compared"]) for row in rows) == len(rows) / 2
