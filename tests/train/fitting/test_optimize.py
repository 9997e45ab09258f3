"""Weight decay, learning-rate schedule, gradient clipping by member and weight averaging."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.small import small
from tests.wide import wide_and_deep
from train.config import TrainConfig
from train.fitting.optimize import (
    clip_parts,
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
    config = TrainConfig(equipment="press-1", weight_decay=0.2)
    optimizer = make_optimizer(wide_and_deep(), config)
    found = [(group["highest"], group["weight_decay"]) for group in optimizer.param_groups]
    # the skip has a rate and a decay of its own
    assert found == [(0.004, 0.2), (0.004, 0.0), (0.01, 0.3), (0.01, 0.0)]
    names = [len(group["params"]) for group in optimizer.param_groups]
    assert names[2:] == [1, 1]


def test_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate_at(step, 100, 0.01, 0.2) for step in range(101)]
    assert rates[0] == pytest.approx(0.0004)
    assert max(rates) == rates[20] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(rates[20:]))
    assert rates[60] == pytest.approx(0.005)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rate_at(150, 100, 0.01, 0.2) == pytest.approx(0.0, abs=1e-12)


def test_member_with_a_large_gradient_does_not_slow_the_others() -> None:
    model = wide_and_deep()
    biases = [*(member.place.bias for member in model.ensemble.members), model.circuits[0].bias_N]
    for bias, size in zip(biases, (3.0, 0.1, 2.0), strict=True):
        bias.grad = torch.zeros_like(bias)
        bias.grad[0] = size
    torch.testing.assert_close(clip_parts(model, 1.0), torch.tensor([3.0, 0.1, 2.0]))
    assert [bias.grad[0].item() for bias in biases] == pytest.approx([1.0, 0.1, 1.0])


def test_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1)
    average = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    update_average(average, model, 0.9, 10**6)
    torch.testing.assert_close(average["weight"], 0.1 * model.weight.detach())
    update_average(average, model, 0.9, 1)  # young: it keeps only 2 of 11 parts
    torch.testing.assert_close(average["weight"], (0.1 * 2 / 11 + 9 / 11) * model.weight.detach())
