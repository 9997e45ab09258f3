"""The training objective: grades, health and rate of each component, each masked where the windows have no label for it.

Invariant: a component without a label changes no gradient, and every weight of the network takes part in the graph of the loss, which
distributed training needs.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from app.model import Heads


class Targets(NamedTuple):
    """Labels of every component of a batch; -1 or NaN where there is none.

    `grade_V` is the position of the grade, `health_V` in [0, 1], `rate_V` health lost per 1000 operating hours.
    """

    grade_V: Tensor
    health_V: Tensor
    rate_V: Tensor


def ordinal_nll(score_MV: Tensor, threshold_MVJ: Tensor, grade_V: Tensor) -> Tensor:
    """Return the negative log-likelihood of each component's grade under the cumulative link, [M, V]; 0 without a grade.

    Written with log-sigmoids, log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)) for a > b, so that a sure and wrong
    answer keeps its gradient.
    """
    far = score_MV.new_full((*score_MV.shape, 1), torch.inf)
    cut_MVK1 = torch.cat((-far, threshold_MVJ, far), dim=-1)
    place_MV1 = grade_V.clamp(min=0).expand_as(score_MV)[..., None]
    above_MV = score_MV - cut_MVK1.gather(-1, place_MV1).squeeze(-1)
    below_MV = score_MV - cut_MVK1.gather(-1, place_MV1 + 1).squeeze(-1)
    gap_MV = (above_MV - below_MV).clamp(min=1e-6)
    log_MV = functional.logsigmoid(above_MV) + functional.logsigmoid(-below_MV) + torch.log(-torch.expm1(-gap_MV))
    return -log_MV * (grade_V >= 0)


def training_loss(heads: Heads, targets: Targets, health_weight: float) -> Tensor:
    """Return the sum over the members of the mean loss of a labelled component.

    The members' losses are added, not averaged, so that each member learns as fast as if it were alone.

    Args:
        heads: what the network says.
        targets: what is known.
        health_weight: of the health head beside the grades; the rate's is 1.

    Returns:
        A scalar.
    """
    graded = (targets.grade_V >= 0).sum().clamp(min=1)
    grade = ordinal_nll(heads.score_MV, heads.threshold_MVJ, targets.grade_V).sum() / graded
    health_V, has_health_V = _masked(targets.health_V)
    spare_MV = 0.5 * (heads.log_variance_MV + (heads.health_MV - health_V) ** 2 / heads.log_variance_MV.exp())
    health = (spare_MV * has_health_V).sum() / has_health_V.sum().clamp(min=1.0)
    rate_V, has_rate_V = _masked(targets.rate_V)
    miss_MV = functional.huber_loss(heads.rate_MV, rate_V.expand_as(heads.rate_MV), reduction="none")
    rate = (miss_MV * has_rate_V).sum() / has_rate_V.sum().clamp(min=1.0)
    return grade + health_weight * health + rate


def _masked(target_V: Tensor) -> tuple[Tensor, Tensor]:
    there_V = torch.isfinite(target_V)
    return torch.where(there_V, target_V, 0.0), there_V.to(target_V.dtype)
