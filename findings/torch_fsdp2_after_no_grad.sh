#!/usr/bin/env bash
# torch 2.13.0 (the CPU build is enough): after a forward pass under no_grad, as an evaluation makes, some parameters
# of an FSDP2 model are other objects than before, and what is done with those is lost without an error.
#
# As documented, fully_shard leaves the root module's own weights whole after a forward pass, for the backward pass to
# come. After one under no_grad none comes, and until a backward, state_dict() or reshard(), parameters() gives for
# each of them a plain Tensor in place of the DTensor. An optimizer made of those never changes the root's weights
# (their gradients go to the DTensors), and what is written to them then is read by forward and gone after reshard().
# So call reshard() first, or give the root reshard_after_forward=True.
#
# Seen on rank 0 of 2; weight 0 is a divided layer's, weight 1 the root's own:
#   | not run yet: 0 DTensor, 1 DTensor
#   | run under no_grad: 0 DTensor, 1 Tensor
#   | run so, one step of an optimizer made then: 0 changed, 1 unchanged
#   | the same with reshard_after_forward=True: 0 changed, 1 changed
#   | run so, weight 1 set to zero: output is zero: True
#   | after reshard(): 0 DTensor, 1 DTensor, output is zero: False
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|numpy)=='

cat >"$work/fsdp.py" <<'PYTHON'
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard


@torch.no_grad()
def is_zero(model):
    return not model(torch.ones(1, 4)).any()


def divided(run=True, **of_root):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    fully_shard(model[0])
    fully_shard(model, **of_root)
    if run:
        is_zero(model)
    return model


def kinds(model):
    return ", ".join(f"{name[0]} {type(p.data).__name__}" for name, p in model.named_parameters())


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    pairs = zip(model.state_dict().items(), divided(run=False).parameters(), strict=True)
    same = {name[0]: torch.equal(now.full_tensor(), start.full_tensor()) for (name, now), start in pairs}
    return ", ".join(f"{name} {'unchanged' if kept else 'changed'}" for name, kept in same.items())


dist.init_process_group("gloo")
print("not run yet:", kinds(divided(run=False)))
print("run under no_grad:", kinds(divided()))
print("run so, one step of an optimizer made then:", step(divided()))
print("the same with reshard_after_forward=True:", step(divided(reshard_after_forward=True)))
model = divided()
model[1].weight.detach().zero_()
print("run so, weight 1 set to zero: output is zero:", is_zero(model))
model.reshard()
print(f"after reshard(): {kinds(model)}, output is zero: {is_zero(model)}")
dist.destroy_process_group()
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
torchrun=("$work/venv/bin/torchrun" --standalone --nproc-per-node 2 --local-ranks-filter 0)
timeout 300 "${torchrun[@]}" "$work/fsdp.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "torch no longer does what is stated here" >&2
    exit 1
fi
