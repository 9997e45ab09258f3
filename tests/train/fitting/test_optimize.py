"""Weight decay, learning-rate schedule, gradient clipping by member and weight averaging."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.small import small
from train.fitting.optimize import (
    clip_members,
    decayed_names,
    make_optimizer,
    rate_at,
    update_average,
)


def test_matrices_decay_and_nothing_else() -> None:
    member = small().model.ensemble.members[0]
    assert decayed_names(member) == {
        *(f"{name}.weight" for name in ("component", "place", "attend", "summary", "trend")),
        *(f"attention.{n}.{part}.weight" for n in (0, 1) for part in ("source", "target", "out")),
        *("quantity.common.weight", "quantity.own_QFD", "grade.direction_GD"),
        *("lstm.weight_ih_l0", "lstm.weight_hh_l0"),
    }
    optimizer = make_optimizer(small().model.ensemble, 0.01, 0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate_at(step, 100, 0.01, 0.2) for step in range(101)]
    assert rates[0] == pytest.approx(0.0004)
    assert max(rates) == rates[20] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(rates[20:]))
    assert rates[60] == pytest.approx(0.005)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rate_at(150, 100, 0.01, 0.2) == pytest.approx(0.0, abs=1e-12)


def test_member_with_a_large_gradient_does_not_slow_the_others() -> None:
    ensemble = small(members=2).model.ensemble
    for member, size in zip(ensemble.members, (3.0, 0.1), strict=True):
        member.place.bias.grad = torch.zeros(8)
        member.place.bias.grad[0] = size
    norm_M = clip_members(ensemble, 1.0)
    torch.testing.assert_close(norm_M, torch.tensor([3.0, 0.1]))
    found = [member.place.bias.grad[0].item() for member in ensemble.members]
    assert found == pytest.approx([1.0, 0.1])


def test_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1)
    average = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    update_average(average, model, 0.9, 10**6)
    torch.testing.assert_close(average["weight"], 0.1 * model.weight.detach())
    update_average(average, model, 0.9, 1)  # young: it keeps only 2 of 11 parts
    torch.testing.assert_close(average["weight"], (0.1 * 2 / 11 + 9 / 11) * model.weight.detach())
