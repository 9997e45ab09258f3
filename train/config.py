"""`TrainConfig`: every hyper-parameter of a training run; saved whole with the checkpoint as `train_config.json`.

Invariant: a checkpoint's weights follow from its `TrainConfig`, the readings and labels of its data interval and the git revision.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from app.features.statistics import Statistic

Share = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
NO_MESSAGES = "no-message-passing"
"""The study that is no split: the same parts without message passing."""
HARMLESS = frozenset({"workers", "max_failures", "memory_limit_mb", "studies", "keep_fits"})
"""Fields that say how a fit is computed and what is made beside it, not what it learns: it goes on where it was when they change."""
Precision = Literal["fp32", "bf16", "fp16"]


KINDS = "group, machine, time, leave-level:COMPONENT, leave-block:COMPONENT+COMPONENT"
"""Splits that keep near-duplicates together; see `train.data.split`."""


def _a_split(value: str) -> str:
    if not re.fullmatch(
        r"group|machine|time|random(-leaky)?|leave-level:[^+]+|leave-block:[^+]+\+[^+]+", value
    ):
        raise ValueError(f"expected a split of {KINDS}, found '{value}'")
    return value


SplitKind = Annotated[str, AfterValidator(_a_split)]
Study = Annotated[
    str, AfterValidator(lambda value: value if value == NO_MESSAGES else _a_split(value))
]


class TrainConfig(BaseModel):
    """What a training run does. Widths and counts are documented in `app.model.network.ModelConfig`.

    See `train.fitting.augment` for what the augmentations do to a window; 0 is off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keep_fits: bool = False
    """Keep the finished fits beside the checkpoint that they gave, so that the same training goes on from them with other `studies` or
    another `opinion_weight`."""
    equipment: str | None = None
    """The machine whose history is learned; or give `design`."""
    design: str | None = None
    """All machines of this design, which must have one topology; or give `equipment`."""
    seed: int = 0
    """Of the split, the first weights, the order of windows and everything that is drawn."""

    stride_s: Annotated[float, Field(gt=0)] | None = None
    """Time between the ends of two windows of a run to failure; None for one window."""
    rul_cap_h: Annotated[float, Field(gt=0)] = 125.0
    """Operating hours beyond which training does not look: remaining useful life is told up to here."""
    split: SplitKind = "group"
    """How windows are held out: see `train.data.split`."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts of a split by group; each is held out once. The last fit holds out nothing and is the one that is saved."""
    held_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each machine's time, its last, that a split by time holds out."""
    studies: tuple[Study, ...] = ()
    """Further splits on which the same training is scored for the report, by their names in `train.data.split`, and `no-message-passing` for
    the ablation of the graph."""
    validation_share: Share = 0.0
    """Share of the training groups that a fit does not learn from but is watched on; 0 to learn from all."""
    validation_windows: Positive = 512
    """Windows of the validation that an epoch is scored on at most, evenly sampled."""
    warm_up_run: Positive = 50
    """An unbroken run of unstable windows of one configuration this long is a warm-up."""
    warm_up_windows: Annotated[int, Field(ge=0)] = 12
    """Windows of a configuration's warm-up that a fit sees at most."""

    workers: str = "2"
    """Processes that share each batch: a number, or `MIN:MAX` for as many as the cluster has room for while it trains."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Deaths of workers that a fit survives; each costs the epoch that it interrupts."""
    memory_limit_mb: Annotated[float, Field(ge=0)] = 64.0
    """Bins of training windows that a worker keeps in memory; more are streamed anew in each epoch, shuffled among as many as fit."""

    epochs: Positive = 20
    epoch_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training windows that an epoch shows, drawn anew; below 1 where windows overlap so much that few say it all."""
    batch: Positive = 32
    """Windows of a step, over all workers and accumulated parts."""
    accumulate: Positive = 1
    """Parts in which a worker computes its share of a batch, so that only one part's activations are in memory."""
    precision: Precision = "fp32"
    """Of the products in the forward and backward pass; weights, sums and the loss stay in fp32."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Highest rate; it falls to nothing by a half cosine (Loshchilov and Hutter, "SGDR", 2017)."""
    rise_share: Share = 0.15
    """Share of the steps over which the rate first rises to its highest."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of matrices alone, apart from the gradient (Loshchilov and Hutter, "AdamW", 2019)."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a member's gradient."""
    ema: Share = 0.0
    """Share of the old average that a step keeps in the moving average of the weights, which then is what is saved; 0 for none."""
    patience: Positive | None = None
    """Epochs without a better validation score after which a fit ends and its best weights are taken; None to run all epochs and
    take the last."""

    hidden: Positive = 32
    heads: Positive = 4
    attention_layers: Annotated[int, Field(ge=0)] = 2
    """Rounds of message passing; 0 for a network that hears no other component."""
    lstm_layers: Positive = 1
    dropout: Share = 0.0
    members: Positive = 2

    opinion_weight: Annotated[float, Field(ge=0, le=1)] = 0.85
    """Share of the linear second opinion in a grade's probability; 0 for the network alone."""
    opinion_offset: Strength = 0.3
    """Standard deviation of a sensor's constant error that the second opinion is not to heed, in standard deviations of its bins."""
    opinion_warmer_k: Strength = 10.0
    """Standard deviation, in kelvin, of the oil's temperature that the second opinion is not to heed, with what follows from its
    viscosity in pressures and flows."""

    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)] = (
        "mean", "shift", "spread", "dip", "peak", "slope", "start", "end",
    )  # fmt: skip
    clip: Annotated[float, Field(gt=0)] = 8.0
    """Largest distance from the reference, in spreads."""
    spread_floor: Annotated[float, Field(gt=0)] = 0.02
    """Smallest spread of a statistic in a step, as a share of the standard deviation of all the sensor's bins."""

    health_weight: Strength = 1.0
    """Weight of a squared miss of health; that of the grades' likelihood is 1."""
    rate_weight: Strength = 1.0
    """Weight of the degradation rate's loss."""
    rul_weight: Strength = 4.0
    """Weight of a squared miss of the remaining useful life, in units of its cap."""
    rul_asymmetry: Annotated[float, Field(ge=1)] = 1.5
    """How much more a squared miss of the remaining useful life counts where more is told than is left."""

    augmented_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of training windows that lose sensors."""
    sensor_dropout: Share = 0.05
    """Share of such a window's sensors that are masked."""
    history_cut: Share = 0.0
    """Share of training windows that lose their beginning in all sensors, as of a machine that is watched since a short time."""
    gap_share: Share = 0.1
    """Share of training windows that are shown with gaps in some of their sensors' bins."""
    mixup: Strength = 0.4
    """Both parameters of the beta distribution from which the share of a window in its blend with another is drawn; 0: none."""

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_a_number_or_a_range(cls, value: object) -> str:
        least, _, most = str(value).partition(":")
        if not (
            least.isdecimal()
            and (most or least).isdecimal()
            and 1 <= int(least) <= int(most or least)
        ):
            raise ValueError(
                f"expected a number of workers or MIN:MAX with 1 <= MIN <= MAX, found '{value}'"
            )
        return str(value)

    @model_validator(mode="after")
    def _choices_fit_together(self) -> Self:
        if (self.equipment is None) == (self.design is None):
            raise ValueError(
                "expected one of equipment and design, found "
                + ("neither" if not self.design else "both")
            )
        if self.hidden % self.heads:
            raise ValueError(
                f"expected hidden to be a multiple of heads={self.heads}, found {self.hidden}"
            )
        if self.patience is not None and not self.validation_share:
            raise ValueError(
                "expected a validation_share above 0 for patience, found 0: a fit is stopped by its validation"
            )
        if self.batch < self.max_workers * self.accumulate:
            raise ValueError(
                f"expected a batch of at least a window for each of {self.max_workers} workers x {self.accumulate} parts, found {self.batch}"
            )
        return self

    def of_fits(self) -> str:
        """Return as JSON what the fits depend on: how much the second opinion is heard is decided after them."""
        told = self.model_dump_json(exclude={*HARMLESS, "opinion_weight"})
        return f"{told} {bool(self.opinion_weight)}"

    @property
    def min_workers(self) -> int:
        """Return the fewest workers that a fit runs with."""
        return int(self.workers.partition(":")[0])

    @property
    def max_workers(self) -> int:
        """Return the most workers that a fit runs with."""
        return int(self.workers.rpartition(":")[2])

    @property
    def is_elastic(self) -> bool:
        """Return whether the number of workers may change while a fit runs."""
        return ":" in self.workers
