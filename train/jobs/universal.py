"""`hydraulic train universal`: one checkpoint for all demonstration designs.

It generates the machines that it trains on. A share of the machines of each design, and of the
rig's configurations, is held out; the checkpoint is the fit that the report scores on them.
"""

from app.core.errors import InputError
from app.core.settings import Settings
from train.config import TrainConfig
from train.data.session import ray_session
from train.data.universal import UniversalData, universal_fleet
from train.fitting.progress import Progress
from train.jobs.job import check_free
from train.jobs.metrics import TrainingMetrics
from train.jobs.options import StartOptions, UniversalOptions
from train.jobs.start import train_on

NAME = "universal"
"""Of the directory of its checkpoints."""


def train_universal(
    data: UniversalData, options: StartOptions, config: TrainConfig, command: str
) -> int:
    """Train on all designs, print where the checkpoint is, and return the exit status.

    Args:
        data: what to train on.
        options: where the checkpoint is written.
        config: of the training.
        command: that the checkpoint records.
    """
    settings = Settings().at(options.dsn)
    if options.out:
        check_free(options.out)
    with (
        ray_session(config.max_workers),
        TrainingMetrics(settings.var_dir) as metrics,
        Progress(on_note=metrics.note) as progress,
        universal_fleet(settings, data, config, progress.say) as fleet,
    ):
        config = config.model_copy(update={"design": ",".join(fleet.names)})
        train_on(fleet, config, NAME, options, command, settings.var_dir, progress)
    return 0


def data_of(options: UniversalOptions) -> UniversalData:
    """Return the data that options describe.

    Raises:
        InputError: a number is out of its range.
    """
    return UniversalData(
        machines=options.machines,
        windows=options.windows,
        snapshots=options.snapshots,
        hours=float(options.hours),
        wearing=_number(options.wearing, "wearing"),
        sensor_faults=_number(options.sensor_faults, "sensor_faults"),
        seed=options.fleet_seed,
        cmapss=options.cmapss,
    )


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1_000:
        raise InputError(f"expected a number of at least 0, found '{text}'", name)
    return number
