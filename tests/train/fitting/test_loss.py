"""The loss against values by hand, and inputs that it must ignore."""

import math

import pytest
import torch

from app.model.network import Heads
from train.fitting.loss import LossWeights, Targets, ordinal_nll, spread_loss, training_loss

CUTS = torch.tensor([[[-1.0, 1.0]]])
WEIGHTS = LossWeights(health=2.0, rate=3.0, rul=4.0, asymmetry=1.5)
NAN = math.nan


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize(
    ("grade", "expected"),
    [(0, 1 - sigmoid(1.3)), (1, sigmoid(1.3) - sigmoid(-0.7)), (2, sigmoid(-0.7))],
)
def test_ordinal_likelihood_by_hand(grade: int, expected: float) -> None:
    loss = ordinal_nll(torch.tensor([[0.3]]), CUTS, torch.tensor([grade]))
    assert loss.item() == pytest.approx(-math.log(expected), rel=1e-5)


def test_sure_and_wrong_answer_keeps_a_gradient() -> None:
    score = torch.tensor([[200.0]], requires_grad=True)
    ordinal_nll(score, CUTS, torch.tensor([0])).sum().backward()
    assert score.grad is not None
    assert score.grad.item() == pytest.approx(1.0)


def test_last_grade_of_a_short_set_is_finite() -> None:
    cuts = torch.tensor([[[0.0, math.inf]]])
    loss = ordinal_nll(torch.tensor([[0.0]]), cuts, torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(2))


def test_overestimated_life_costs_more_than_underestimated_life() -> None:
    flat = torch.zeros(2)
    over, under = spread_loss(torch.tensor([0.2, -0.2]), flat, 4.0, asymmetry=1.5).tolist()
    assert over == pytest.approx(4.0 * 1.5 * 0.04 + 0.1 * 0.04)
    assert under == pytest.approx(4.0 * 0.04 + 0.1 * 0.04)


def test_stated_spread_learns_the_size_of_the_misses_and_moves_no_mean() -> None:
    miss = torch.tensor([0.1, -0.3], requires_grad=True)
    log_variance = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([log_variance], lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        spread_loss(miss, log_variance, 0.0).sum().backward()
        optimizer.step()
    assert log_variance.exp().item() == pytest.approx((0.01 + 0.09) / 2, rel=1e-3)
    assert miss.grad is not None
    assert miss.grad.abs().max() == 0.0


def heads(score: float = 0.0) -> Heads:
    leaves = [
        torch.full((1, 2), value, requires_grad=True) for value in (score, 0.5, 0.0, 0.2, 0.8, 0.0)
    ]
    return Heads(leaves[0], CUTS.expand(1, 2, 2), *leaves[1:])


def test_without_labels_there_is_no_loss_and_no_gradient_but_a_graph() -> None:
    said = heads()
    unknown = torch.full((2,), NAN)
    loss = training_loss(said, Targets(torch.tensor([-1, -1]), unknown, unknown, unknown), WEIGHTS)
    loss.backward()
    assert loss.item() == 0.0
    for leaf in (said.score_VW, *said[2:]):
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() == 0.0


def test_loss_is_the_mean_over_the_labelled() -> None:
    said = heads()
    targets = Targets(
        torch.tensor([1, -1]),
        torch.tensor([NAN, 0.1]),
        torch.tensor([0.5, NAN]),
        torch.tensor([0.6, NAN]),
    )
    grade = -math.log(sigmoid(1) - sigmoid(-1))
    health = 2.0 * 0.16 + 0.1 * 0.16
    rul = 4.0 * 1.5 * 0.04 + 0.1 * 0.04
    expected = grade + health + 3.0 * 0.5 * 0.3**2 + rul
    assert training_loss(said, targets, WEIGHTS).item() == pytest.approx(expected, rel=1e-5)
