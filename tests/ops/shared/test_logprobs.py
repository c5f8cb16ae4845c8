from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.shared.logprobs import entropies, log_probabilities, token_logprobs


def test_two_tokens_by_hand():
    # logits [0, ln 3]: p = [1/4, 3/4]; H = ln4/4 + (3/4) ln(4/3) = 0.346574 + 0.215762 = 0.562335
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.25), math.log(0.75)]))
    torch.testing.assert_close(entropy, torch.tensor([0.562335, 0.562335]))


def test_whole_distributions_by_hand():
    # logits [0, ln 4]: p = [1/5, 4/5]; H = ln5/5 + (4/5) ln(5/4) = 0.500402
    log_p = log_probabilities(torch.tensor([[0.0, math.log(4)]]))
    torch.testing.assert_close(log_p, torch.tensor([[math.log(0.2), math.log(0.8)]]))
    exact = torch.tensor([[math.log(0.2), math.log(0.8)], [0.0, -math.inf]])
    torch.testing.assert_close(entropies(exact), torch.tensor([0.500402, 0.0]))


def test_naive_loop():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 4, 7), torch.randint(0, 7, (3, 4))
    logprobs, entropy = token_logprobs(logits, targets)
    for i in range(3):
        for t in range(4):
            weights = [math.exp(x) for x in logits[i, t].tolist()]
            p = [w / sum(weights) for w in weights]
            assert logprobs[i, t].item() == pytest.approx(math.log(p[targets[i, t]]), abs=1e-5)
            assert entropy[i, t].item() == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-5)


def test_gradients():
    # d log p_k / dz_j = 1[j = k] - p_j;   dH / dz_j = -p_j (log p_j + H)
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float32, requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.tensor(2))
    p = logits.detach().softmax(0)
    (of_logprob,) = torch.autograd.grad(logprobs, logits, retain_graph=True)
    torch.testing.assert_close(of_logprob, torch.tensor([0.0, 0.0, 1.0, 0.0]) - p)
    (of_entropy,) = torch.autograd.grad(entropy, logits)
    torch.testing.assert_close(of_entropy, -p * (p.log() + entropy.detach()))


def test_bf16_logits_are_reduced_in_fp32():
    torch.manual_seed(1)
    logits = (4 * torch.randn(64, 500)).bfloat16()
    targets = torch.randint(0, 500, (64,))
    logprobs, entropy = token_logprobs(logits, targets)
    exact = logits.double().log_softmax(-1)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, exact.gather(-1, targets[:, None])[:, 0].float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, -(exact.exp() * exact).sum(-1).float(), atol=1e-5, rtol=0)


def test_forbidden_vocabulary_entries():
    # the entry at -inf has p = 0; the other two share it: log 1/2, entropy ln 2
    logits = torch.tensor([1.0, -math.inf, 1.0], requires_grad=True)
    logprobs, entropy = token_logprobs(logits, torch.tensor(0))
    assert logprobs.item() == pytest.approx(math.log(0.5))
    assert entropy.item() == pytest.approx(math.log(2))
    (logprobs + entropy).backward(retain_graph=True)
    torch.testing.assert_close(logits.grad, torch.tensor([0.5, 0.0, -0.5]))
    logits.grad = None
    (100 * entropy).backward()  # both are as likely, so nothing changes the entropy
    torch.testing.assert_close(logits.grad, torch.zeros(3), atol=1e-5, rtol=0)
