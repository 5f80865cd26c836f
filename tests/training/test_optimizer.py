"""AdamW against torch.optim's own."""

from __future__ import annotations

import torch
from torch import nn

from cdtool.training.optimizer import AdamW


def _parameters():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((5, 3), (7,), (4, 2, 3))]


def _groups(parameters):
    return [{"params": parameters[:2], "weight_decay": 0.1}, {"params": parameters[2:], "weight_decay": 0.0, "lr": 0.3}]


def _descend(parameters, optimizer, steps, *, skipped=()):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for place, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if (step, place) in skipped else gradient
        optimizer.step()
        optimizer.zero_grad()


def test_it_is_torchs_to_the_bit_with_gradients_that_are_not_always_there():
    ours, theirs = _parameters(), _parameters()
    skipped = {(0, 2), (3, 0)}
    _descend(ours, AdamW(_groups(ours), lr=0.01), range(6), skipped=skipped)
    _descend(theirs, torch.optim.AdamW(_groups(theirs), lr=0.01, fused=True), range(6), skipped=skipped)
    for one, other, before in zip(ours, theirs, _parameters(), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, before)


def test_it_goes_on_from_its_own_state_and_from_one_torch_saved():
    whole = _parameters()
    _descend(whole, AdamW(_groups(whole), lr=0.01), range(5))
    for kind in (AdamW, lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True)):
        begun = _parameters()
        first = kind(_groups(begun), lr=0.01)
        _descend(begun, first, range(2))
        second = AdamW(_groups(begun), lr=0.01)
        second.load_state_dict(first.state_dict())
        _descend(begun, second, range(2, 5))
        assert all(torch.equal(one, other) for one, other in zip(whole, begun, strict=True))
