"""`Evaluation`: all that held-out windows say of a training, as `metrics.json` holds it and the report draws it.

Plain data. Invariant: unless `seen` is true, every figure is of windows that the weights, references and constants it was made with never
saw.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import AliasChoices, AwareDatetime, BaseModel, ConfigDict, Field

from app.checkpoint.calibration import Calibration
from app.features.spec import Limits
from train.evaluation.robustness import Trouble
from train.evaluation.scores import LifeScore, Score

THIS = "this checkpoint"
ALONE = "its network alone"
NO_MESSAGES = "no message passing"
TOGETHER = "all graded components"

_STRICT = ConfigDict(frozen=True, extra="forbid")


class GradeFigures(BaseModel):
    """Grades of one component: pooled over all held-out windows, of each part, the mean of the parts' macro-F1, and counts by true and told grade."""

    model_config = _STRICT

    pooled: Score
    parts: Mapping[str, Score]
    mean_macro_f1: float
    confusion: tuple[tuple[int, ...], ...]


class ShareFigures(BaseModel):
    """A share of windows: pooled, of each part, and the mean of the parts."""

    model_config = _STRICT

    pooled: float
    parts: Mapping[str, float]
    mean: float


class LifeFigures(BaseModel):
    """Remaining life of one component: pooled, of each part, and the mean of the parts' root mean square error."""

    model_config = _STRICT

    pooled: LifeScore
    parts: Mapping[str, LifeScore]
    mean_rmse_h: float


class Scorecard(BaseModel):
    """What one way to tell gets right, by component id. `smoothed` is over five windows.

    Smoothed figures average the stated probabilities. Their reset where the condition changes comes from the labels, which no service
    has, and the service itself does not smooth: they say what five windows of one condition hold, not what is served.
    Warm-ups count in `warm_up` alone. `health_mae` is of the health that is told, in [0, 1].
    """

    model_config = _STRICT

    grades: Mapping[str, GradeFigures] = {}
    smoothed: Mapping[str, GradeFigures] = {}
    exact_match: ShareFigures | None = None
    exact_match_smoothed: ShareFigures | None = None
    warm_up: Mapping[str, Score] = {}
    health_mae: Mapping[str, float] = {}
    life: Mapping[str, LifeFigures] = {}


class IntervalFigures(BaseModel):
    """Intervals of one quantity of one component: the reach shipped, and coverage and mean width with the other folds' reach.

    The width is in health, or in operating hours for remaining life.
    """

    model_config = _STRICT

    reach: float
    coverage: float
    parts: Mapping[str, float]
    width: float
    windows: int


class Certainty(BaseModel):
    """Whether what a component's answers claim is met. `reliability` has (mean confidence, accuracy, windows) of equally filled bins."""

    model_config = _STRICT

    temperature: float | None = None
    opinion_temperature: float | None = None
    nll_plain: float | None = None
    nll_calibrated: float | None = None
    reliability: tuple[tuple[float, float, int], ...] = ()
    health: IntervalFigures | None = None
    rul: IntervalFigures | None = None


class LevelFigures(BaseModel):
    """With `away` sensors missing: share of windows answered, the risk of these answers, and how many they are."""

    model_config = _STRICT

    away: int
    answered: float
    risk: float | None
    windows: int


class Abstention(BaseModel):
    """What happens while sensors are taken away at random, with thresholds from other folds.

    The risk of a graded component is its error rate, of others the mean absolute error of health. Graded components have one
    threshold, chosen by the risk of all their answers together. `full_risk` is that of all answers
    with all sensors; `holds` tells whether no level's risk exceeds it by more than a fifth, `holds_beyond_chance` the same but
    for levels whose excess a sample of that size shows in more than one of twenty cases. `curve` is risk against share answered, all
    sensors there.
    """

    model_config = _STRICT

    least_confidence: float | None
    most_spread: float | None
    full_risk: float
    worst_ratio: float | None
    holds: bool
    holds_beyond_chance: bool
    levels: tuple[LevelFigures, ...]
    curve: tuple[tuple[float, float], ...]


class Answered(BaseModel):
    """Of a graded component's held-out windows, all sensors there: the share that is answered, and the score of these answers.

    The rest is too far from training, itself or its whole window, see `train.evaluation.selective_prediction.silences`. No `score` where none is answered.
    """

    model_config = _STRICT

    share: float
    score: Score | None


class TroubleFigures(BaseModel):
    """One kind of trouble, one sensor at a time: mean over the sensors, what it costs against clean input, and each sensor's figure."""

    model_config = _STRICT

    mean: float
    cost: float
    worst_sensor: str
    sensors: Mapping[str, float]


class Robustness(BaseModel):
    """What broken sensors cost; `measure` says in what: share of exact matches (cost in points), or error of remaining life in hours."""

    model_config = _STRICT

    measure: Literal["exact match", "rul rmse"]
    clean: float
    windows: int
    troubles: Mapping[Trouble, TroubleFigures]


class LearningPoint(BaseModel):
    """One epoch of one fit; `score` is of the fit's validation windows, larger is better."""

    model_config = _STRICT

    epoch: int
    loss: float
    score: float | None = None


class Trajectory(BaseModel):
    """A machine's component over time: hours since its first window, truth, what was told and its interval."""

    model_config = _STRICT

    machine: str
    component_id: str
    quantity: Literal["health", "rul_h"]
    hours: tuple[float, ...]
    true: tuple[float, ...]
    told: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Listening(BaseModel):
    """How much each attention layer listens along one edge; what arrives at one component sums to 1."""

    model_config = _STRICT

    source: str
    target: str
    medium: str
    weights: tuple[float, ...]


class PartSize(BaseModel):
    """Windows that a part trains on and holds out."""

    model_config = _STRICT

    train: int
    held: int


class Evaluation(BaseModel):
    """Everything that was measured. Contenders are by name, `this checkpoint` first; `notes` says what could not be measured and why.

    `seen` tells that the windows may have been in this checkpoint's training: then nothing is held out, and baselines, which did not
    see them, are no comparison.
    """

    model_config = _STRICT

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
    scorecards: Mapping[str, Scorecard] = Field(
        validation_alias=AliasChoices("scorecards", "contenders")
    )
    """By name; reports of earlier versions call them contenders."""
    certainty: Mapping[str, Certainty]
    answered: Mapping[str, Answered] = {}
    abstention: Mapping[str, Abstention]
    robustness: Robustness | None
    listening: tuple[Listening, ...]
    learning: Mapping[str, tuple[LearningPoint, ...]]
    trajectories: tuple[Trajectory, ...]
    limits: Limits | None
    calibration: Calibration
    notes: tuple[str, ...]


class Heading(BaseModel):
    """What the report says of the run itself, as far as it is known; `shape` names the network's sizes in words."""

    model_config = _STRICT

    version: str
    command: str
    git_revision: str
    created: AwareDatetime
    start: AwareDatetime
    end: AwareDatetime
    weights: int | None = None
    training_s: float | None = None
    shape: str | None = None


class Metrics(BaseModel):
    """`metrics.json`: the evaluation of the training's split, and those of other splits by name."""

    model_config = _STRICT

    heading: Heading | None
    evaluation: Evaluation
    studies: Mapping[str, Evaluation] = {}
