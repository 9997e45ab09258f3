"""Run a fit in its own process, for tests that kill it.

`python -m tests.train.fit_alone WINDOWS STORAGE WORKERS`.
"""

import sys
from pathlib import Path

import numpy as np

from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import Integers
from train.data.windows import open_windows
from train.fitting.fit import run_fit

CONFIG = TrainConfig(
    equipment="press-1", workers="1", epochs=8, batch=16, hidden=8, heads=2, members=2,
    attention_layers=1,
    statistics=("mean", "end"), learning_rate=0.03, validation_share=0.2,
)  # fmt: skip
FIT = "fold 1/2"


def validation_split(windows: int) -> tuple[list[Integers], list[Integers]]:
    """Return training and validation windows of one design; every fifth is for validation."""
    order_W = np.arange(windows)
    return [order_W[order_W % 5 != 0]], [order_W[order_W % 5 == 0]]


if __name__ == "__main__":
    found = open_windows(Path(sys.argv[1]))
    run_fit(
        Fleet((found,)),
        *validation_split(len(found)),
        CONFIG.model_copy(update={"workers": sys.argv[3]}),
        FIT,
        Path(sys.argv[2]),
    )
