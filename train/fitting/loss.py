"""The training objective: grades, health, rate and remaining useful life of each component, each masked where a window has no label.

Invariant: a component without a label changes no gradient, and every weight of the network takes
part in the graph of the loss, which
distributed training needs.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from app.model.network import Heads

LOG_VARIANCE = (-9.0, 4.0)
"""Range to which the loss clips a predicted variance, which would fall without end where a prediction
has no error."""

SPREAD_WEIGHT = 0.1
"""Of the likelihood of a stated spread."""


class Targets(NamedTuple):
    """Labels of every component of a batch in the network's own units; -1 or NaN where there is none.

    `grade_V` is the position of the grade, `health_V` in [0, 1], `rate_V` and `rul_V` in
    `ModelConfig.rate_unit` and `rul_unit_h`.
    """

    grade_V: Tensor
    health_V: Tensor
    rate_V: Tensor
    rul_V: Tensor


class LossWeights(NamedTuple):
    """What a squared miss of health and RUL and the rate's loss count beside the grades' loss; `asymmetry`: see `TrainConfig`."""

    health: float
    rate: float
    rul: float
    asymmetry: float


def ordinal_nll(score_MV: Tensor, threshold_MVJ: Tensor, grade_V: Tensor) -> Tensor:
    """Return the negative log-likelihood of each component's grade under the cumulative link, [M, V]; 0 without a grade.

    Written with log-sigmoids, log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)) for a >
    b, so that a sure and wrong
    answer keeps its gradient.
    """
    far = score_MV.new_full((*score_MV.shape, 1), torch.inf)
    cut_MVK1 = torch.cat((-far, threshold_MVJ, far), dim=-1)
    place_MV1 = grade_V.clamp(min=0).expand_as(score_MV)[..., None]
    above_MV = score_MV - cut_MVK1.gather(-1, place_MV1).squeeze(-1)
    below_MV = score_MV - cut_MVK1.gather(-1, place_MV1 + 1).squeeze(-1)
    gap_MV = (above_MV - below_MV).clamp(min=1e-6)
    log_MV = (
        functional.logsigmoid(above_MV)
        + functional.logsigmoid(-below_MV)
        + torch.log(-torch.expm1(-gap_MV))
    )
    return -log_MV * (grade_V >= 0)


def spread_loss(
    miss_MV: Tensor, log_variance_MV: Tensor, weight: float, over: float = 1.0
) -> Tensor:
    """Return the squared miss and the normal negative log-likelihood of the stated spread, [M, V].

    The likelihood moves the spread alone: a mean that is fitted by it stops learning where the
    variance has grown to explain its misses
    (Seitzer et al., "On the pitfalls of heteroscedastic uncertainty estimation", 2022; they weight
    it, we part it).

    Args:
        miss_MV: prediction minus truth.
        log_variance_MV: as predicted; clipped to `LOG_VARIANCE`.
        weight: of the squared miss.
        over: how much more a squared miss above zero counts.
    """
    log_MV = log_variance_MV.clamp(*LOG_VARIANCE)
    square_MV = miss_MV**2
    stated_MV = log_MV + square_MV.detach() / log_MV.exp()
    return weight * square_MV * torch.where(miss_MV > 0, over, 1.0) + SPREAD_WEIGHT * stated_MV


def training_loss(heads: Heads, targets: Targets, weights: LossWeights) -> Tensor:
    """Return the sum over the members of the mean loss of a labelled component.

    The members' losses are added, not averaged, so that each member learns as fast as if it were
    alone.

    Args:
        heads: of all members for a batch of graphs, [M, V]; see `Heads.of_batch`.
        targets: what is known.
        weights: of the heads.

    Returns:
        A scalar.
    """
    graded = (targets.grade_V >= 0).sum().clamp(min=1)
    grade = ordinal_nll(heads.score_VW, heads.threshold_VJ, targets.grade_V).sum() / graded
    health_V, has_health_V = _masked(targets.health_V)
    health_MV = spread_loss(heads.health_VW - health_V, heads.log_variance_VW, weights.health)
    rate_V, has_rate_V = _masked(targets.rate_V)
    rate_MV = functional.huber_loss(
        heads.rate_VW, rate_V.expand_as(heads.rate_VW), reduction="none"
    )
    rul_V, has_rul_V = _masked(targets.rul_V)
    rul_MV = spread_loss(
        heads.rul_VW - rul_V, heads.rul_log_variance_VW, weights.rul, weights.asymmetry
    )
    return (
        grade
        + _mean(health_MV, has_health_V)
        + weights.rate * _mean(rate_MV, has_rate_V)
        + _mean(rul_MV, has_rul_V)
    )


def _mean(loss_MV: Tensor, has_V: Tensor) -> Tensor:
    return (loss_MV * has_V).sum() / has_V.sum().clamp(min=1.0)


def _masked(target_V: Tensor) -> tuple[Tensor, Tensor]:
    there_V = torch.isfinite(target_V)
    return torch.where(there_V, target_V, 0.0), there_V.to(target_V.dtype)
