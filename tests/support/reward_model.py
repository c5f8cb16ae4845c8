"""A tiny reward model with transformers' own classes, and `llmrl serve` as a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from llmrl.models.loading import character_tokenizer

CHARACTERS = "0123456789+-= abcdefghijklmnopqrstuvwxyz<>|:\n"
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_reward_model(folder: Path, *, labels: int = 1, pad_is_eos: bool = False, seed: int = 0) -> Path:
    """A Llama of two layers whose head reads like a trained one's: its scores differ clearly from text to text."""
    tokenizer = character_tokenizer(CHARACTERS)
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, num_labels=labels, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=tokenizer.eos_token_id if pad_is_eos else tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def served(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of `llmrl serve FOLDER --port 0` and its URL; it is asked to stop at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llmrl.cli", "serve", str(folder), "--port", "0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout
        said = process.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found, said + process.stdout.read()
        yield process, found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
