"""The training loss: grade, health, degradation rate and remaining useful life of each component.

Both branches together have the whole loss. Each branch alone has that of its latent channels, so
that it predicts without the other; the network alone also learns what both predict together
(distillation: Hinton, Vinyals and Dean, 2015). That takes the place of dropping a branch at random,
at no cost: one forward pass gives all three.

Invariant: a component without a label changes no gradient but that of distillation, and every
weight is in the graph of the loss, which distributed training needs.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from app.model.layers import grade_probability
from app.model.network import Heads
from train.config import TrainConfig
from train.data.labels import WORN, Integers
from train.fitting.wide_and_deep import Branches

LOG_VARIANCE = (-9.0, 4.0)
"""Range of the predicted log variance, which would fall without bound where errors are 0."""
LEAST_PROBABILITY = 1e-6
"""Below it the network alone is no longer pushed towards a grade."""
LEAST_SHARE = 1e-5
"""Of a predicted health, and of what it lacks, in the logarithm of its loss."""
SPREAD_WEIGHT = 0.1
"""Weight of the likelihood of the predicted spread."""


class Targets(NamedTuple):
    """Labels of components in the network's units; -1 or NaN where there is none.

    `grade_V` is the position of the grade, `health_V` in [0, 1], `rate_V` and `rul_V` in
    `ModelConfig.rate_unit` and `rul_unit_h`.
    """

    grade_V: Tensor
    health_V: Tensor
    rate_V: Tensor
    rul_V: Tensor

    def take(self, position_W: Integers) -> Self:
        """Return the targets of some windows of [W, V], in the order of a batch's components."""
        chosen_W = torch.from_numpy(position_W)
        return type(self)(*(tensor[chosen_W.to(tensor.device)].flatten() for tensor in self))

    def where(self, has_VC: Tensor) -> Self:
        """Return only the labels of channels that are marked; the rate has none."""
        grade_V, health_V, rul_V = has_VC.unbind(-1)
        return self._replace(
            grade_V=torch.where(grade_V, self.grade_V, -1),
            health_V=torch.where(health_V, self.health_V, torch.nan),
            rul_V=torch.where(rul_V, self.rul_V, torch.nan),
        )


class LossWeights(NamedTuple):
    """Weights relative to the loss of the grades, and the asymmetry of RUL; see `TrainConfig`.

    `alone` is the weight of each branch alone, `distillation` the share of the prediction of both
    in the targets of the network alone, `worn` the further weight of the health of worn components.
    """

    health: float
    rate: float
    rul: float
    asymmetry: float
    alone: float = 0.0
    distillation: float = 0.0
    worn: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """Return the weights of a training."""
        return cls(
            config.health_weight,
            config.rate_weight,
            config.rul_weight,
            config.rul_asymmetry,
            config.alone_weight,
            config.distillation,
            config.worn_weight,
        )


def ordinal_nll(score_MV: Tensor, threshold_MVJ: Tensor, grade_V: Tensor) -> Tensor:
    """Return the negative log-likelihood of the grades under the cumulative link, [M, V].

    It is 0 without a grade. Log-sigmoids keep the gradient of a confident wrong prediction:
    log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)) for a > b.
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


def spread_loss(error_MV: Tensor, log_variance_MV: Tensor) -> Tensor:
    """Return the normal negative log-likelihood of the predicted spread, weighted, [M, V].

    It trains the spread alone: a mean trained by it stops learning where the variance has grown to
    explain its errors (Seitzer et al., "On the pitfalls of heteroscedastic uncertainty estimation",
    2022, who weight the likelihood instead).

    Args:
        error_MV: prediction minus truth.
        log_variance_MV: as predicted; clipped to `LOG_VARIANCE`.
    """
    log_MV = log_variance_MV.clamp(*LOG_VARIANCE)
    return SPREAD_WEIGHT * (log_MV + error_MV.detach() ** 2 / log_MV.exp())


def health_divergence(health_MV: Tensor, true_V: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of predicted from true health, as fractions, [M, V].

    Its gradient by the logit is the error itself, also where the sigmoid is flat: a worn component
    that is predicted as new keeps its pull (Papke and Wooldridge, "Econometric methods for
    fractional response variables", 1996).

    Args:
        health_MV: predicted, in [0, 1].
        true_V: in [0, 1].
    """
    near_MV = health_MV.clamp(LEAST_SHARE, 1.0 - LEAST_SHARE)
    entropy_V = -(torch.xlogy(true_V, true_V) + torch.xlogy(1.0 - true_V, 1.0 - true_V))
    return -(true_V * near_MV.log() + (1.0 - true_V) * (1.0 - near_MV).log()) - entropy_V


def late_square(error_MV: Tensor, asymmetry: float) -> Tensor:
    """Return the squared error, times a factor where remaining life is overestimated, [M, V]."""
    return error_MV**2 * torch.where(error_MV > 0, asymmetry, 1.0)


def training_loss(heads: Heads, targets: Targets, weights: LossWeights) -> Tensor:
    """Return the sum over the members of the mean loss of a labelled component.

    A sum, not a mean, lets each member learn as fast as if it were alone.

    Args:
        heads: of all members for a batch of graphs, [M, V]; see `Heads.of_batch`.
        targets: of the batch.
        weights: of the heads.

    Returns:
        A scalar.
    """
    graded = (targets.grade_V >= 0).sum().clamp(min=1)
    grade = ordinal_nll(heads.score_VW, heads.threshold_VJ, targets.grade_V).sum() / graded
    health_V, has_health_V = _masked(targets.health_V)
    health_MV = weights.health * health_divergence(heads.health_VW, health_V)
    health_MV = health_MV + spread_loss(heads.health_VW - health_V, heads.log_variance_VW)
    rate_V, has_rate_V = _masked(targets.rate_V)
    rate_MV = functional.huber_loss(
        heads.rate_VW, rate_V.expand_as(heads.rate_VW), reduction="none"
    )
    rul_V, has_rul_V = _masked(targets.rul_V)
    late_MV = heads.rul_VW - rul_V
    rul_MV = weights.rul * late_square(late_MV, weights.asymmetry)
    rul_MV = rul_MV + spread_loss(late_MV, heads.rul_log_variance_VW)
    return (
        grade
        + _mean(health_MV, has_health_V * health_emphasis(targets, weights))
        + weights.rate * _mean(rate_MV, has_rate_V)
        + _mean(rul_MV, has_rul_V)
    )


def branches_loss(branches: Branches, targets: Targets, weights: LossWeights) -> Tensor:
    """Return the loss of both branches together and of each alone, of a batch of one design.

    Args:
        branches: of the batch.
        targets: of the batch.
        weights: of the heads and the branches.

    Returns:
        A scalar, the sum over the members.
    """
    deep = branches.deep
    both = deep.heads(branches.latent_MVC)
    loss = training_loss(both, targets, weights)
    if not weights.alone:
        return loss
    alone = deep.heads(deep.latent_VWC)
    share = weights.distillation
    loss = loss + weights.alone * (1.0 - share) * latent_loss(alone, targets, weights)
    if share:
        has_skip_V = (branches.share_VC < 1.0).any(-1)
        loss = loss + weights.alone * share * distilled_loss(alone, both, has_skip_V, weights)
    wide = deep.heads(branches.wide_VC.expand_as(deep.latent_VWC))
    return loss + weights.alone * latent_loss(wide, targets.where(branches.share_VC < 1.0), weights)


def latent_loss(heads: Heads, targets: Targets, weights: LossWeights) -> Tensor:
    """Return the loss of a branch's latent channels: without rate and predicted spreads."""
    grade_MV = ordinal_nll(heads.score_VW, heads.threshold_VJ, targets.grade_V)
    health_V, has_health_V = _masked(targets.health_V)
    rul_V, has_rul_V = _masked(targets.rul_V)
    rul_MV = late_square(heads.rul_VW - rul_V, weights.asymmetry)
    return (
        _mean(grade_MV, targets.grade_V >= 0)
        + weights.health
        * _mean(
            health_divergence(heads.health_VW, health_V),
            has_health_V * health_emphasis(targets, weights),
        )
        + weights.rul * _mean(rul_MV, has_rul_V)
    )


def distilled_loss(alone: Heads, both: Heads, has_skip_V: Tensor, weights: LossWeights) -> Tensor:
    """Return the loss of the network alone against what both branches predict, where they differ.

    Args:
        alone: of the network.
        both: of network and skip, the target.
        has_skip_V: components with a skip.
        weights: of the heads.
    """
    worse_MVJ, target_MVJ = (
        torch.sigmoid(each.score_VW[..., None] - each.threshold_VJ) for each in (alone, both)
    )
    target_MVK = grade_probability(target_MVJ.detach())
    log_MVK = grade_probability(worse_MVJ).clamp(min=LEAST_PROBABILITY).log()
    grade_MV = -(target_MVK * log_MVK).sum(-1)
    health_MV = weights.health * health_divergence(alone.health_VW, both.health_VW.detach())
    rul_MV = weights.rul * (alone.rul_VW - both.rul_VW.detach()) ** 2
    return _mean(grade_MV + health_MV + rul_MV, has_skip_V)


def health_emphasis(targets: Targets, weights: LossWeights) -> Tensor:
    """Return the weight of each component's loss of health, [V]: larger of worn ones.

    Components with a grade have none further.
    """
    is_worn_V = (targets.health_V < WORN) & (targets.grade_V < 0)
    return 1.0 + weights.worn * is_worn_V.to(targets.health_V.dtype)


def _mean(loss_MV: Tensor, has_V: Tensor) -> Tensor:
    """Return the weighted mean loss; `has_V` is the weight of a component, 0 without a label."""
    return (loss_MV * has_V).sum() / has_V.sum().clamp(min=1)


def _masked(target_V: Tensor) -> tuple[Tensor, Tensor]:
    there_V = torch.isfinite(target_V)
    return torch.where(there_V, target_V, 0.0), there_V.to(target_V.dtype)
