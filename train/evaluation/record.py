"""The record of an evaluation, as `metrics.json` holds it and the report draws it.

Plain data. The aliases are the names of the stored file, which never change. Invariant: unless
`seen` is true, every figure is of windows that the weights, references and constants behind it
never saw.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.checkpoint.calibration import Calibration
from app.features.spec import Limits
from train.evaluation.robustness import Fault
from train.evaluation.scores import LifeScore, Score

THIS = "this checkpoint"
WIDE = "its linear skip alone"
DEEP = "its network alone"
NO_MESSAGES = "no message passing"
TOGETHER = "all graded components"


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )


class GradeFigures(_Record):
    """Grades of one component: pooled over the held-out windows, by part, and the confusion matrix.

    `mean_macro_f1` is the mean of the parts; `confusion` counts windows by true and predicted
    grade.
    """

    pooled: Score
    parts: Mapping[str, Score]
    mean_macro_f1: float
    confusion: tuple[tuple[int, ...], ...]


class ShareFigures(_Record):
    """A share of windows: pooled, of each part, and the mean of the parts."""

    pooled: float
    parts: Mapping[str, float]
    mean: float


class LifeFigures(_Record):
    """Remaining life of one component: pooled, of each part, and the mean of the parts' RMSE."""

    pooled: LifeScore
    parts: Mapping[str, LifeScore]
    mean_rmse_h: float


class Scorecard(_Record):
    """Scores of one model by component id; the checkpoint and its baselines are scored alike.

    `smoothed` figures average the probabilities of five windows. Where the condition changes the
    average starts anew, by the labels, which no service has; the service does not smooth. Warm-ups
    count in `warm_up` alone. `health_mae` is of health in [0, 1]. Over all components that have
    labels of health and no grades, `even_health_mae` weights health 1 and each fifth of the range
    below equally, and `worn_health_mae` is of the components that are not as new. `states` scores
    the states that follow from health, by the default thresholds and without hysteresis. `ranking`
    is how often a window of a healthy component has a higher health than one of a component that is
    not healthy (area under the ROC curve).
    """

    grades: Mapping[str, GradeFigures] = {}
    smoothed: Mapping[str, GradeFigures] = {}
    exact_match: ShareFigures | None = None
    exact_match_smoothed: ShareFigures | None = None
    warm_up: Mapping[str, Score] = {}
    health_mae: Mapping[str, float] = {}
    even_health_mae: float | None = None
    worn_health_mae: float | None = None
    states: Mapping[str, Score] = {}
    life: Mapping[str, LifeFigures] = {}
    ranking: Mapping[str, float] = {}


class IntervalFigures(_Record):
    """Intervals of one quantity of one component.

    `reach` is the shipped one; coverage and mean width are with the reach of the other folds. It is
    `pooled` where the component has too few windows and the reach is that of the other designs. The
    width is in health, or in operating hours for remaining life. `unsure` counts the windows whose
    answer about health is not sure, as `ComponentCalibration` has it: these have a reach of their
    own, and `unsure_coverage`, None without any.
    """

    reach: float
    pooled: bool = False
    unsure_reach: float | None = None
    coverage: float
    unsure: int = 0
    unsure_coverage: float | None = None
    parts: Mapping[str, float]
    width: float
    windows: int


class Uncertainty(_Record):
    """Whether the stated probabilities and intervals of a component hold.

    `reliability` has (mean confidence, accuracy, windows) of equally filled bins.
    """

    temperature: float | None = None
    nll_plain: float | None = None
    nll_calibrated: float | None = None
    reliability: tuple[tuple[float, float, int], ...] = ()
    health: IntervalFigures | None = None
    rul: IntervalFigures | None = None


class LevelFigures(_Record):
    """With `away` sensors missing: share of windows answered, risk and number of the answers."""

    away: int
    answered: float
    risk: float | None
    windows: int


class Abstention(_Record):
    """Answers while sensors are removed at random, with thresholds from other folds.

    The risk of a graded component is its error rate, that of others the mean absolute error of
    health. Graded components share one threshold, chosen by the risk of all their answers.
    `full_risk` is that of all answers with all sensors; `holds` is true where no level's risk
    exceeds it by more than a fifth, `holds_beyond_chance` leaves out levels whose excess a sample
    of that size shows in more than one of twenty evaluations. `curve` is risk against share
    answered, with all sensors.
    """

    least_confidence: float | None
    most_spread: float | None
    full_risk: float
    worst_ratio: float | None
    holds: bool
    holds_beyond_chance: bool
    levels: tuple[LevelFigures, ...]
    curve: tuple[tuple[float, float], ...]


class Answered(_Record):
    """Answers about a graded component with all sensors present.

    `share` is the share of the held-out windows that are answered, `score` that of these answers,
    None without any; the others are out of distribution, see
    `train.evaluation.selective_prediction.silences`. `contradicting` is the share of the answers
    whose health is nearer to that of another grade than to that of the condition.
    """

    share: float
    score: Score | None
    contradicting: float | None = None


class FaultFigures(_Record):
    """One kind of sensor fault, one sensor at a time.

    Mean over the sensors, cost against clean input, and each sensor's figure.
    """

    mean: float
    cost: float
    worst_sensor: str
    sensors: Mapping[str, float]


class Robustness(_Record):
    """The cost of faulty sensors.

    `measure` is the share of exact matches (cost in points), or the error of remaining life in
    hours.
    """

    measure: Literal["exact match", "rul rmse"]
    clean: float
    windows: int
    faults: Mapping[Fault, FaultFigures] = Field(alias="troubles")


class LearningPoint(_Record):
    """One epoch of one fit; `score` is of the fit's validation windows, larger is better."""

    epoch: int
    loss: float
    score: float | None = None


class Trajectory(_Record):
    """A machine's component over time, in hours since its first window."""

    machine: str
    component_id: str
    quantity: Literal["health", "rul_h"]
    hours: tuple[float, ...]
    true: tuple[float, ...]
    predicted: tuple[float, ...] = Field(alias="told")
    low: tuple[float, ...]
    high: tuple[float, ...]


class AttentionWeights(_Record):
    """Weight of one edge in each attention layer; those of all edges into a component sum to 1."""

    source: str
    target: str
    medium: str
    weights: tuple[float, ...]


class PartSize(_Record):
    """Windows that a part trains on and holds out."""

    train: int
    holdout: int = Field(alias="held")


class Evaluation(_Record):
    """All figures of an evaluation. Scorecards are by name, `this checkpoint` first.

    `notes` names what could not be measured and why. `seen` is true where the windows may have been
    in this checkpoint's training: then nothing is held out, and baselines, which did not see them,
    are no comparison.
    """

    equipment_id: str
    design: str
    split: str
    windows: int
    warm_up_windows: int
    groups: int
    parts: Mapping[str, PartSize]
    grades: Mapping[str, tuple[str, ...]]
    cap_h: float | None
    cross_fitted: bool
    seen: bool = False
    scorecards: Mapping[str, Scorecard] = Field(alias="contenders")
    uncertainty: Mapping[str, Uncertainty] = Field(alias="certainty")
    answered: Mapping[str, Answered] = {}
    abstention: Mapping[str, Abstention]
    robustness: Robustness | None
    attention: tuple[AttentionWeights, ...] = Field(alias="listening")
    learning: Mapping[str, tuple[LearningPoint, ...]]
    trajectories: tuple[Trajectory, ...]
    limits: Limits | None
    calibration: Calibration
    notes: tuple[str, ...]


class Heading(_Record):
    """The run of a report, as far as it is known; `shape` gives the network's sizes in words."""

    version: str
    command: str
    git_revision: str
    created: AwareDatetime
    start: AwareDatetime
    end: AwareDatetime
    weights: int | None = None
    training_s: float | None = None
    shape: str | None = None


class PooledFigures(_Record):
    """Figures of one model, of one design or over several; None where nothing has such a label.

    `macro_f1` and `health_mae` are means over components, `exact_match` is a share of windows.
    """

    macro_f1: float | None = None
    exact_match: float | None = None
    health_mae: float | None = None
    rul_rmse_h: float | None = None
    windows: int = 0


class FleetFigures(_Record):
    """Figures of the models in a training on several designs, by model.

    `designs` has those of each design. `mean` is over designs, which count equally; `pooled` is
    over windows, of which a design with a longer history has more.
    """

    designs: Mapping[str, Mapping[str, PooledFigures]]
    mean: Mapping[str, PooledFigures]
    pooled: Mapping[str, PooledFigures]


class Metrics(_Record):
    """`metrics.json`: the evaluation of the training's split, and those of other splits by name.

    A training on several designs has the evaluations of the further designs in `further`, and
    figures over all designs in `fleet`.
    """

    heading: Heading | None
    evaluation: Evaluation
    studies: Mapping[str, Evaluation] = {}
    further: Mapping[str, Evaluation] = {}
    fleet: FleetFigures | None = None
