"""`TrainConfig`: every hyper-parameter of a training run; saved whole with the checkpoint as `train_config.json`.

Invariant: a checkpoint's weights follow from its `TrainConfig`, the readings and labels of its data interval and the git revision.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.bins import Statistic

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class TrainConfig(BaseModel):
    """What a training run does. Widths and counts are documented in `app.model.ModelConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment: str
    design: str | None = None
    """All machines of this design, which must have one topology; or give `equipment`."""
    stride_s: Annotated[float, Field(gt=0)] | None = None
    """Time between the ends of two windows of a run to failure; None for one window."""
    rul_cap_h: Annotated[float, Field(gt=0)] = 125.0
    """Operating hours beyond which training does not look: remaining useful life is told up to here."""
    seed: int = 0
    """Of the split, the first weights, the order of windows and everything that is dropped."""
    workers: Positive = 2
    """Processes that share each batch."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts of the configurations; each is held out once. The last fit holds out nothing and is the one that is saved."""
    epochs: Positive = 40
    batch: Positive = 32
    """Windows of a step, over all workers."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Highest rate; it rises over the first 15 % of the steps and falls to nothing (Smith and Topin, 2018)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a member's gradient."""

    hidden: Positive = 32
    heads: Positive = 4
    attention_layers: Positive = 2
    lstm_layers: Positive = 1
    dropout: Share = 0.0
    members: Positive = 4

    opinion_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the linear second opinion in a grade's probability; 0 for the network alone."""

    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)] = (
        "mean", "shift", "spread", "dip", "peak", "slope", "start", "end",
    )  # fmt: skip
    clip: Annotated[float, Field(gt=0)] = 8.0
    """Largest distance from the reference, in spreads."""
    spread_floor: Annotated[float, Field(gt=0)] = 0.02
    """Smallest spread of a statistic in a step, as a share of the standard deviation of all the sensor's bins."""
    sensor_dropout: Share = 0.05
    """Share of sensors that is masked in half of the training windows, so that a missing sensor costs little."""
    mixup: Annotated[float, Field(ge=0)] = 0.4
    """Both parameters of the beta distribution from which the share of a window in its blend with another is drawn; 0: none."""
    feature_noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the noise on the features of training windows, in spreads."""
    gap_share: Share = 0.1
    """Share of training windows that are shown with gaps in some of their sensors' bins."""
    health_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight in the loss of the health head beside the grades."""

    warm_up_run: Positive = 50
    """An unbroken run of unstable windows of one configuration this long is a warm-up."""
    warm_up_windows: Annotated[int, Field(ge=0)] = 12
    """Windows of a configuration's warm-up that a fit sees at most."""

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"expected hidden to be a multiple of heads={self.heads}, found {self.hidden}")
        return self
