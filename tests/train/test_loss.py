"""The loss by hand, and what must not enter it."""

import math

import pytest
import torch

from app.model import Heads
from train.loss import Targets, ordinal_nll, training_loss

CUTS = torch.tensor([[[-1.0, 1.0]]])


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


def heads(score: float = 0.0) -> Heads:
    leaves = [torch.full((1, 2), value, requires_grad=True) for value in (score, 0.5, 0.0, 0.2, 0.7, 0.0)]
    return Heads(leaves[0], CUTS.expand(1, 2, 2), *leaves[1:])


def test_without_labels_there_is_no_loss_and_no_gradient_but_a_graph() -> None:
    said = heads()
    nothing = Targets(torch.tensor([-1, -1]), torch.full((2,), math.nan), torch.full((2,), math.nan))
    loss = training_loss(said, nothing, 1.0)
    loss.backward()
    assert loss.item() == 0.0
    for leaf in (said.score_MV, said.health_MV, said.log_variance_MV, said.rate_MV):
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() == 0.0


def test_loss_is_the_mean_over_the_labelled() -> None:
    said = heads()
    targets = Targets(torch.tensor([1, -1]), torch.tensor([math.nan, 0.1]), torch.tensor([0.5, math.nan]))
    expected = -math.log(sigmoid(1) - sigmoid(-1)) + 2.0 * 0.5 * 0.4**2 + 0.5 * 0.3**2
    assert training_loss(said, targets, 2.0).item() == pytest.approx(expected, rel=1e-5)
