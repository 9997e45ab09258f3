"""The evidence that training masked, according to the checkpoint's configuration.

Training masks sensors, gaps and histories so that the network predicts without them; it did not
learn to predict without evidence that was never masked. `train.fitting.augment` uses the constants
below.
"""

from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from app.features.binning import Doubles

HISTORY_PARTS = 12
"""A history cut leaves at least one of so many parts of a window."""
GAPPED_SENSORS = 1 / 3
"""Share of a window's sensors that have a gap, in a window that has gaps."""
LONGEST_GAP = 0.5
"""Share of a sensor's window that a gap takes at most."""
SHOWN_SHARE = 1e-3
"""Share of the training windows from which a loss of evidence counts as one that training showed.

A training of 20 epochs over 2,000 windows shows it 40 times.
"""

Share = Annotated[float, Field(ge=0, le=1)]


class Masking(BaseModel):
    """The settings of `train_config.json` that mask evidence; see `train.config.TrainConfig`.

    A setting that the file does not state counts as off: the network answers only if all evidence
    is there. `attention_layers` comes from `model_config.json`, which always states it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    attention_layers: Annotated[
        int,
        Field(ge=0, description="most connections over which evidence travels in the network"),
    ] = 0
    augmented_share: Annotated[Share, Field(description="training windows that were changed")] = 0.0
    sensor_dropout: Annotated[Share, Field(description="sensors dropped in such a window")] = 0.0
    gap_share: Annotated[Share, Field(description="windows that got gaps")] = 0.0
    history_cut: Annotated[Share, Field(description="windows whose beginning was cut")] = 0.0
    mixup: Annotated[float, Field(ge=0, description="blending of two windows; 0 is off")] = 0.0

    @property
    def least_history(self) -> float:
        """Share of a window that the deepest history cut leaves; 1 without cuts."""
        return 1.0 / HISTORY_PARTS if self.history_cut >= SHOWN_SHARE else 1.0


class LeastEvidence(NamedTuple):
    """Least evidence that training left of some sensors, in sensors.

    Args:
        of_some: where further sensors are read beside them; may be 0.
        of_all: where they are all that is read; above 0, since no evidence is no answer.
    """

    of_some: float
    of_all: float


@lru_cache(maxsize=4096)
def least_evidence(masking: Masking, sensors: int) -> LeastEvidence:
    """Work out the least evidence of some sensors that training showed.

    Sensor dropout takes k of n sensors, where k is the largest number that at least `SHOWN_SHARE`
    of the training windows lack. A gap takes half of one sensor's window.

    Args:
        masking: of the training.
        sensors: n, at least 0.
    """
    dropped = _most_dropped(masking, sensors)
    has_gaps = masking.gap_share * GAPPED_SENSORS >= SHOWN_SHARE
    taken = max(min(dropped, sensors - 1), LONGEST_GAP if has_gaps else 0.0)
    return LeastEvidence(of_some=float(sensors - dropped), of_all=max(sensors, 1) - taken)


def _most_dropped(masking: Masking, sensors: int) -> int:
    """Return the most of some sensors that training dropped at once.

    A blend of two windows (mixup) lacks every sensor that either of the two lacks.
    """
    touched, once = masking.augmented_share, masking.sensor_dropout
    lacking_N = touched * _tail(sensors, once)
    if masking.mixup:
        twice = 1.0 - (1.0 - once) ** 2
        lacking_N = 2.0 * (1.0 - touched) * lacking_N + touched**2 * _tail(sensors, twice)
    return int(np.flatnonzero(lacking_N >= SHOWN_SHARE).max(initial=0))


def _tail(sensors: int, dropout: float) -> Doubles:
    """Return the probabilities that at least 0, 1, ... of some sensors are dropped."""
    if not 0.0 < dropout < 1.0:
        return np.where(np.arange(sensors + 1) <= sensors * dropout, 1.0, 0.0)
    lost_N = np.arange(sensors + 1)
    log_factorial_N = np.concatenate(([0.0], np.log(lost_N[1:]).cumsum()))
    log_ways_N = log_factorial_N[-1] - log_factorial_N - log_factorial_N[::-1]
    log_share_N = lost_N * np.log(dropout) + (sensors - lost_N) * np.log1p(-dropout)
    tail_N: Doubles = np.exp(log_ways_N + log_share_N)[::-1].cumsum()[::-1]
    return tail_N
