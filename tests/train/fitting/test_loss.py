"""The loss against values by hand, and inputs that it must ignore."""

import math

import pytest
import torch

from app.model.network import DeepOutput, Heads
from train.fitting.loss import (
    LossWeights,
    Targets,
    branches_loss,
    distilled_loss,
    health_divergence,
    late_square,
    ordinal_nll,
    spread_loss,
    training_loss,
)
from train.fitting.wide_and_deep import Branches

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
    over, under = late_square(torch.tensor([0.2, -0.2]), 1.5).tolist()
    assert over == pytest.approx(1.5 * 0.04)
    assert under == pytest.approx(0.04)


def test_divergence_is_zero_for_the_true_health_and_keeps_its_pull_far_from_it() -> None:
    health = torch.tensor([0.0, 0.3, 1.0])
    assert health_divergence(health, health).abs().max() < 2e-5
    logit = torch.tensor([8.0], requires_grad=True)
    health_divergence(torch.sigmoid(logit), torch.tensor([0.2])).sum().backward()
    assert logit.grad is not None
    # the error itself; that of a squared error would be 2 x 0.8 x s(1 - s) = 5e-4
    assert logit.grad.item() == pytest.approx(0.8, abs=1e-3)


def test_stated_spread_learns_the_size_of_the_misses_and_moves_no_mean() -> None:
    miss = torch.tensor([0.1, -0.3], requires_grad=True)
    log_variance = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([log_variance], lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        spread_loss(miss, log_variance).sum().backward()
        optimizer.step()
    assert log_variance.exp().item() == pytest.approx((0.01 + 0.09) / 2, rel=1e-3)
    assert miss.grad is None


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


def divergence(found: float, true: float) -> float:
    return true * math.log(true / found) + (1 - true) * math.log((1 - true) / (1 - found))


def test_loss_is_the_mean_over_the_labelled() -> None:
    said = heads()
    targets = Targets(
        torch.tensor([1, -1]),
        torch.tensor([NAN, 0.1]),
        torch.tensor([0.5, NAN]),
        torch.tensor([0.6, NAN]),
    )
    grade = -math.log(sigmoid(1) - sigmoid(-1))
    health = 2.0 * divergence(0.5, 0.1) + 0.1 * 0.16
    rul = 4.0 * 1.5 * 0.04 + 0.1 * 0.04
    expected = grade + health + 3.0 * 0.5 * 0.3**2 + rul
    assert training_loss(said, targets, WEIGHTS).item() == pytest.approx(expected, rel=1e-5)


def test_worn_components_without_grades_can_count_more() -> None:
    said = heads()
    nothing_V = torch.full((2,), NAN)
    weights = WEIGHTS._replace(worn=3.0)

    def loss(grade: int, worn: float, other: float) -> float:
        health_V = torch.tensor([worn, other])
        targets = Targets(torch.tensor([grade, -1]), health_V, nothing_V, nothing_V)
        return training_loss(said, targets, weights).item()

    of_worn, of_new = (2.0 * divergence(0.5, h) + 0.1 * (0.5 - h) ** 2 for h in (0.2, 0.99))
    assert loss(-1, 0.2, 0.99) == pytest.approx((4.0 * of_worn + of_new) / 5.0, rel=1e-4)
    graded = -math.log(sigmoid(1) - sigmoid(-1))
    assert loss(1, 0.2, 0.99) == pytest.approx(graded + (of_worn + of_new) / 2.0, rel=1e-4)


GRADED = Targets(
    torch.tensor([1, -1]),
    torch.tensor([0.5, NAN]),
    torch.full((2,), NAN),
    torch.full((2,), NAN),
)


def branches(share: float = 0.25) -> tuple[Branches, torch.Tensor, torch.Tensor]:
    """Return two components; the second has no skip."""
    deep_MVC = torch.tensor([[[2.0, 1.0, 0.0], [0.5, 0.0, 0.0]]], requires_grad=True)
    wide_VC = torch.tensor([[-1.0, 0.5, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    share_VC = torch.tensor([[share, share, 1.0], [1.0, 1.0, 1.0]])
    flat_MV = torch.zeros(1, 2)
    deep = DeepOutput(deep_MVC, CUTS.expand(1, 2, 2), flat_MV, flat_MV, flat_MV)
    return Branches(deep, wide_VC, share_VC), deep_MVC, wide_VC


def nll(score: float) -> float:
    """Return the loss of the middle grade."""
    return -math.log(sigmoid(score + 1) - sigmoid(score - 1))


def test_each_branch_alone_has_a_loss_beside_both() -> None:
    weights = LossWeights(2.0, 3.0, 4.0, 1.5, alone=0.5, distillation=0.0)
    found, *_ = branches()
    both = found.latent_MVC[0, 0]
    assert both[0].item() == pytest.approx(0.25 * 2.0 + 0.75 * -1.0)
    plain = training_loss(found.deep.heads(found.latent_MVC), GRADED, weights)
    alone = nll(2.0) + nll(-1.0)
    alone += 2.0 * (divergence(sigmoid(1.0), 0.5) + divergence(sigmoid(0.5), 0.5))
    loss = branches_loss(found, GRADED, weights)
    assert loss.item() == pytest.approx(plain.item() + 0.5 * alone, rel=1e-5)


def test_without_weight_only_both_together_are_trained() -> None:
    found, *_ = branches()
    weights = WEIGHTS._replace(alone=0.0)
    plain = training_loss(found.deep.heads(found.latent_MVC), GRADED, weights)
    assert branches_loss(found, GRADED, weights).item() == plain.item()


def test_distillation_moves_the_network_and_not_its_target() -> None:
    found, deep_MVC, wide_VC = branches()
    both = found.deep.heads(found.latent_MVC)
    alone = found.deep.heads(found.deep.latent_VWC)
    loss = distilled_loss(alone, both, torch.tensor([True, False]), WEIGHTS)
    loss.backward()
    assert deep_MVC.grad is not None
    assert deep_MVC.grad[0, 0, 0] > 0  # towards the lower score of both
    assert not deep_MVC.grad[0, 1].any()  # without a skip there is nothing to learn
    assert wide_VC.grad is None or not wide_VC.grad.any()


def test_distillation_is_least_where_the_network_says_the_same() -> None:
    found, *_ = branches(share=1.0)
    heads_ = found.deep.heads(found.deep.latent_VWC)
    has_V = torch.tensor([True, False])
    entropy = distilled_loss(heads_, heads_, has_V, WEIGHTS).item()
    other = found.deep.heads(found.deep.latent_VWC + 0.3)
    assert distilled_loss(other, heads_, has_V, WEIGHTS).item() > entropy
