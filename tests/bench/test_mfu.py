"""The FLOPs that a step of training needs, by hand."""

from __future__ import annotations

from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrl.bench.mfu import update_flops


def test_flops_of_an_update_by_hand():
    sizes = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2, "head_dim": 2, "vocab_size": 10}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    untied = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, tie_word_embeddings=False))
    # a layer: q 4 x 4, k and v 4 x 2 each, o 4 x 4, three of 4 x 8, norms 4 + 4 + 2 + 2; last norm 4, head 40
    weights = 2 * (16 + 8 + 8 + 16 + 96 + 12) + 4 + 40
    # attention: 6 x 2 layers x 2 heads of 2 x 5 tokens
    assert update_flops(untied, 3, 5) == 3 * (6 * weights + 6 * 2 * 4 * 5)
    tied = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, tie_word_embeddings=True))
    assert update_flops(tied, 3, 5) == update_flops(untied, 3, 5)  # the tied embedding is the head
