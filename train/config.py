"""`TrainConfig`: all hyper-parameters of a training, saved with the checkpoint.

Invariant: a checkpoint's weights follow from its `TrainConfig`, the readings and labels of its data
interval and the Git revision.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from app.checkpoint.masking import Masking
from app.features.statistics import OF_RESIDUALS, Statistic

Share = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
NO_MESSAGES = "no-message-passing"
"""The study that is not a split: the training's folds without message passing."""
HARMLESS = frozenset(
    {"workers", "max_failures", "memory_limit_mb", "studies", "keep_fits", "single_fit"}
)
"""Fields that do not change what a fit learns: an interrupted fit resumes when they change."""
Precision = Literal["fp32", "bf16", "fp16"]


AUTO = "auto"
"""A choice that the data or the cluster decides, see `split` and `workers`."""
DEFAULT_WORKERS = 2
KINDS = (
    "auto, group, machine, time, holdout, leave-level:COMPONENT, leave-block:COMPONENT+COMPONENT, "
    "leave-design:DESIGN"
)
"""Splits that never divide near-duplicates; see `train.data.split`."""


def _a_split(value: str) -> str:
    if not re.fullmatch(
        r"auto|group|machine|time|holdout|random(-leaky)?|leave-level:[^+]+"
        r"|leave-block:[^+]+\+[^+]+|leave-design:.+",
        value,
    ):
        raise ValueError(f"expected a split of {KINDS}, found '{value}'")
    return value


SplitKind = Annotated[str, AfterValidator(_a_split)]
Study = Annotated[
    str, AfterValidator(lambda value: value if value == NO_MESSAGES else _a_split(value))
]


def _design_hours(value: str) -> str:
    design, _, hours = value.rpartition("=")
    if not design or not re.fullmatch(r"\d+(\.\d+)?", hours) or not float(hours):
        raise ValueError(f"expected DESIGN=HOURS with hours above 0, found '{value}'")
    return value


DesignHours = Annotated[str, AfterValidator(_design_hours)]


class TrainConfig(BaseModel):
    """Settings of a training. `app.model.config.ModelConfig` documents widths and counts.

    `train.fitting.augment` documents the augmentations; 0 turns one off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keep_fits: bool = False
    """Keep the fits, so that the same training with other `studies` reuses them."""
    equipment: str | None = None
    """Machine to train on, several with commas between them, or a pattern with `*`; or give
    `design`."""
    design: str | None = None
    """Train on all machines of this design, or of several with commas between them; or give
    `equipment`. The machines of a design share one topology."""
    start: AwareDatetime | None = None
    """Train on windows from this time on; None for the beginning of the labels."""
    end: AwareDatetime | None = None
    """Train on windows that end by this time; None for the end of the labels."""
    seed: int = 0
    """Seed of the split, the initial weights, the order of windows and all other draws."""

    stride_s: Annotated[float, Field(gt=0)] | None = None
    """Time between the ends of two windows of a run to failure; None for the length of a window."""
    rul_cap_h: Annotated[float, Field(gt=0)] = 125.0
    """Largest remaining useful life that is labelled and predicted, in operating hours."""
    rul_caps_h: tuple[DesignHours, ...] = ()
    """The same of designs whose lives are of another length, as DESIGN=HOURS. The cap is the unit
    in which the network predicts."""
    split: SplitKind = AUTO
    """Kind of the split into training and holdout: see `train.data.split`; auto splits by group, or
    by time where there are fewer groups than folds."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Folds of a split by group or machine; each is held out once. The final fit, which is saved,
    trains on all windows."""
    holdout_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each machine's history, at its end, that a split by time holds out, or of the groups
    that `holdout` holds out."""
    single_fit: bool = False
    """Save the fit of the split's only part, such as that of `holdout`, instead of a further fit on
    all windows: its figures are those of the saved weights."""
    studies: tuple[Study, ...] = ()
    """Further splits of `train.data.split` to score for the report; `no-message-passing` is the
    ablation of the graph."""
    validation_share: Share = 0.0
    """Share of the training groups used for validation instead; 0 to train on all. Of a single
    group, the share of each machine's history at its end."""
    validation_windows: Positive = 512
    """Most validation windows to score an epoch on, evenly sampled."""
    warm_up_run: Positive = 50
    """Length from which a run of unstable windows of one configuration is a warm-up."""
    warm_up_windows: Annotated[int, Field(ge=0)] = 12
    """Most windows of a configuration's warm-up to train on."""

    workers: str = AUTO
    """Processes that share each batch: a number, `MIN:MAX` to follow the size of the cluster, or
    auto for one on each of its GPUs, or two where it has none."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Failures of workers that a fit survives; each repeats one or two epochs."""
    memory_limit_mb: Annotated[float, Field(ge=0)] = 64.0
    """Memory of a worker for training windows; a larger set is streamed in each epoch and shuffled
    in a buffer of this size."""

    epochs: Positive = 16
    epoch_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training windows drawn for an epoch; below 1 for windows that overlap
    strongly."""
    design_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Exponent of a design's number of windows in its share of each batch: 0 gives all designs of a
    training equal shares, 1 gives them shares in proportion to their windows."""
    batch: Positive = 32
    """Windows of an optimiser step, over all workers and accumulated parts."""
    accumulate: Positive = 1
    """Parts in which a worker computes its share of a batch, to limit the memory of activations."""
    precision: Precision = "fp32"
    """Precision of matrix products; weights, sums and the loss stay in fp32."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.004
    """Highest rate; it falls to 0 by a half cosine (Loshchilov and Hutter, "SGDR", 2017)."""
    rise_share: Share = 0.15
    """Share of the steps over which the rate rises to its maximum."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled decay of matrices only (Loshchilov and Hutter, "AdamW", 2019)."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient of an ensemble member."""
    ema: Share = 0.0
    """Decay of the exponential moving average of the weights, which is then saved; 0 for no
    average."""
    patience: Positive | None = None
    """Epochs without a better validation score after which a fit ends with its best weights; None
    to run all epochs and use the last."""

    hidden: Positive = 32
    heads: Positive = 4
    attention_layers: Annotated[int, Field(ge=0)] = 2
    """Rounds of message passing; 0 for none."""
    lstm_layers: Positive = 1
    dropout: Share = 0.0
    members: Positive = 2

    deep_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of the network in a component's score beside the linear skip; 1 trains the network
    alone."""
    skip_learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Highest rate of the skip's weights."""
    skip_weight_decay: Annotated[float, Field(ge=0)] = 0.3
    """Decoupled decay of the skip's weights on whitened features."""
    skip_penalty: Strength = 0.003
    """Penalty on the squared weights of the skip of machines without grades, which is fitted before
    the network trains."""
    skip_noise: Strength = 0.15
    """Standard deviation of the noise on whitened features in training."""
    shrinkage: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Share of the mean variance in the covariance that whitens the skip's features."""
    mean_shrinkage: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """The same for machines without a cycle, whose skip reads means over the steps: there are fewer
    of them, and the signal lies in their directions of low variance."""
    alone_weight: Strength = 1.0
    """Weight of the loss of each branch alone beside the loss of both."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the prediction of both branches in the targets of the network alone; labels have
    the rest."""

    machine_baseline_h: Annotated[float, Field(ge=0)] = 0.0
    """Hours from the first healthy window of each machine whose healthy windows are its baseline,
    by which its windows are normalised; 0 to normalise by the training windows of its design. Only
    a version with baselines can serve a design that it was not trained on."""
    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)] = (
        "mean", "shift", "spread", "dip", "peak", "slope", "start", "end",
    )  # fmt: skip
    clip: Annotated[float, Field(gt=0)] = 8.0
    """Largest distance of a feature from its reference, in spreads."""
    spread_floor: Annotated[float, Field(gt=0)] = 0.02
    """Smallest spread of a statistic, as a share of the standard deviation of the sensor's bins."""

    health_weight: Strength = 1.0
    """Weight of the divergence of health; the likelihood of the grades has weight 1."""
    worn_weight: Strength = 0.0
    """Further weight of the loss of health, and of its predicted spread, of worn components without
    grades. Most components are as new, so an unweighted fit underestimates wear."""
    rate_weight: Strength = 1.0
    """Weight of the degradation rate's loss."""
    rul_weight: Strength = 4.0
    """Weight of the squared error of remaining useful life, in units of its cap."""
    rul_asymmetry: Annotated[float, Field(ge=1)] = 1.5
    """Factor on the squared error of remaining useful life where it is overestimated."""

    augmented_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of training windows with masked sensors."""
    sensor_dropout: Share = 0.05
    """Share of masked sensors in such a window."""
    history_cut: Share = 0.0
    """Share of training windows whose beginning is masked, as for a machine with a short
    history."""
    gap_share: Share = 0.1
    """Share of training windows with gaps in the bins of some sensors."""
    disturbed_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of training windows with biased sensors and another oil temperature."""
    sensor_offset: Strength = 0.3
    """Bias of each sensor in such a window and in the OOD distance, in standard deviations of the
    sensor's bins."""
    oil_warming_k: Strength = 10.0
    """Change of oil temperature in such a window and in the OOD distance, in kelvin, with the
    effect of the viscosity on pressures and flows."""
    mixup: Strength = 0.0
    """Both parameters of the beta distribution of mixup weights; 0 for no mixup."""

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_a_number_or_a_range(cls, value: object) -> str:
        least, _, most = str(value).partition(":")
        if value != AUTO and not (
            least.isdecimal()
            and (most or least).isdecimal()
            and 1 <= int(least) <= int(most or least)
        ):
            raise ValueError(
                "expected a number of workers, MIN:MAX with 1 <= MIN <= MAX, or auto, found "
                f"'{value}'"
            )
        return str(value)

    @model_validator(mode="after")
    def _choices_fit_together(self) -> Self:
        if (self.equipment is None) == (self.design is None):
            raise ValueError(
                "expected one of equipment and design, found "
                + ("neither" if not self.design else "both")
            )
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(
                f"expected start before end, found {self.start.isoformat()} and "
                f"{self.end.isoformat()}"
            )
        if self.hidden % self.heads:
            raise ValueError(
                f"expected hidden to be a multiple of heads={self.heads}, found {self.hidden}"
            )
        if self.patience is not None and not self.validation_share:
            raise ValueError(
                "expected a validation_share above 0 for patience, found 0: early stopping needs a "
                "validation score"
            )
        of_residuals = [name for name in self.statistics if name in OF_RESIDUALS]
        if of_residuals and not self.machine_baseline_h:
            raise ValueError(
                "expected machine_baseline_h above 0 for statistics of residuals "
                f"({', '.join(of_residuals)}), found 0: set it, or leave them out"
            )
        if len(of_residuals) == len(self.statistics):
            raise ValueError(
                "expected a statistic of readings beside those of residuals, found none"
            )
        if self.batch < self.max_workers * self.accumulate:
            raise ValueError(
                f"expected a batch of at least a window for each of {self.max_workers} workers x "
                f"{self.accumulate} parts, found {self.batch}"
            )
        return self

    def cap_h(self, design: str) -> float:
        """Return the largest remaining useful life of a design, in operating hours."""
        for each in self.rul_caps_h:
            name, _, hours = each.rpartition("=")
            if name == design:
                return float(hours)
        return self.rul_cap_h

    def of_fits(self) -> str:
        """Return as JSON the fields that the fits depend on."""
        return self.model_dump_json(exclude=set(HARMLESS))

    @property
    def masking(self) -> Masking:
        """Return the settings that mask evidence."""
        return Masking.model_validate(self.model_dump())

    @property
    def min_workers(self) -> int:
        """Return the smallest number of workers of a fit."""
        return DEFAULT_WORKERS if self.workers == AUTO else int(self.workers.partition(":")[0])

    @property
    def max_workers(self) -> int:
        """Return the largest number of workers of a fit."""
        return DEFAULT_WORKERS if self.workers == AUTO else int(self.workers.rpartition(":")[2])

    def placed(self, gpus: int, most: int = DEFAULT_WORKERS) -> Self:
        """Return these settings with a decided number of workers.

        Args:
            gpus: of the cluster. As many workers share them, but no more than a batch can feed.
            most: workers for which the cluster has free processors where it has no GPU.
        """
        if self.workers != AUTO:
            return self
        workers = min(gpus, self.batch // self.accumulate) or max(1, min(DEFAULT_WORKERS, most))
        return self.model_copy(update={"workers": str(workers)})

    @property
    def is_elastic(self) -> bool:
        """Return whether the number of workers may change while a fit runs."""
        return ":" in self.workers
