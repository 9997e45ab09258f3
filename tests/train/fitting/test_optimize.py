"""What decays, how the rate goes, how a member's gradient is cut, how the average follows."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.small import small
from train.fitting.optimize import clip_members, decays, follow, make_optimizer, rate_at


def test_matrices_decay_and_nothing_else() -> None:
    names = {name.rpartition(".")[2] for name, _ in small().model.named_parameters()}
    assert {name for name in names if decays(name)} == {
        "weight_MLD", "recurrent_MDQ", "own_MQFD", "direction_MGD",
    }  # fmt: skip
    assert {name for name in names if not decays(name)} == {
        "bias_MD", "gain_M11D", "bias_M11D", "type_MCD", "embedding_MQD", "relation_MRD", "attention_MHC", "first_MG", "gap_MGJ",
    }  # fmt: skip
    optimizer = make_optimizer(small().model, 0.01, 0.1)
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
    first, second = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 2, 2))
    first.grad = torch.tensor([[3.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    second.grad = torch.zeros(2, 2, 2)
    second.grad[0, 0, 0] = 4.0
    norm_M = clip_members([first, second], 1.0)
    torch.testing.assert_close(norm_M, torch.tensor([5.0, 0.1]))
    torch.testing.assert_close(first.grad, torch.tensor([[0.6, 0.0, 0.0], [0.1, 0.0, 0.0]]))
    assert second.grad[0, 0, 0].item() == pytest.approx(0.8)


def test_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1)
    average = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    follow(average, model, 0.9, 10**6)
    torch.testing.assert_close(average["weight"], 0.1 * model.weight.detach())
    follow(average, model, 0.9, 1)  # young: it keeps only 2 of 11 parts
    torch.testing.assert_close(average["weight"], (0.1 * 2 / 11 + 9 / 11) * model.weight.detach())
