"""The joint distribution of the summaries of a design's sensors, and its plan for one machine.

`SensorModel` is a part of the feature spec: a Gaussian over the summaries of all sensors of a
design, fitted to training windows with and without faulty components, so that what a component's
fault does to several sensors is no surprise. Any sensor is predicted from any others by
conditioning: a sensor that is missing or faulty is left out, and the others are predicted without
it. `as_new` is the Gaussian of machines as new alone, which predicts a sensor far better where the
others look as new. `signatures` say which directions the fault of each component moves the
summaries in.
Shapes: S sensors, T steps, Y numbers of a summary, J = S x Y, V components, A axes.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.features.binning import Doubles
from app.features.window_summary import NUMBERS

Y = len(NUMBERS)
TESTS = ("all", "shape", "level")
"""Parts of a sensor's residual that are tested, each with a limit of its own."""
FEWEST_SENSORS = 3
"""Sensors of a machine, known to the model, below which none is predicted from the others."""


def _check_numbers(text: str) -> str:
    try:
        size = len(base64.b64decode(text, validate=True))
    except ValueError:
        size = -1
    if size % 4:
        raise ValueError("expected float32 numbers as base64, found other text: retrain")
    return text


Packed = Annotated[str, AfterValidator(_check_numbers)]
"""Little-endian float32 numbers as base64: exact, and a sixth of their size as decimal text."""


def packed(values: NDArray[np.floating]) -> str:
    """Return numbers as `Packed`."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def unpacked(text: str, *shape: int) -> Doubles:
    """Return the numbers of `Packed` in a shape."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64).reshape(shape)


class AsNewModel(BaseModel):
    """The summaries of machines as new, as deviations in the scales of the sensor model.

    Args:
        centre: mean, [J].
        covariance: shrunk, [J, J].
        limits: of `TESTS`, [S, 3]; see `app.features.sensor_tests`.
        rest: largest square of all other sensors with which they look as new, [S].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    centre: Packed
    covariance: Packed
    limits: Packed
    rest: Packed


class SensorModel(BaseModel):
    """The sensor model of a design; see the module.

    Args:
        sensor_ids: S sensors, in the order of the arrays.
        floor: `floor_S` of the summaries.
        centre: mean summaries, [S, Y].
        scale: their standard deviations, [S, Y].
        correlation: of the J numbers, shrunk, [J, J].
        limits: of `TESTS`, [S, 3]; see `app.features.sensor_tests`.
        coverage: usual share of the bins of a window that have readings, [S].
        healthy: summaries of a machine as new less the centre, in scales, [J].
        whitening: from deviations of `healthy` in scales to unit variance, [J, J].
        signatures: by component id, [J + 1, A]: axes of whitened deviations, and below them the
            variance along each beyond that of a machine as new.
        as_new: None where training had too few windows without any wear.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sensor_ids: Annotated[tuple[str, ...], Field(min_length=FEWEST_SENSORS)]
    floor: Packed
    centre: Packed
    scale: Packed
    correlation: Packed
    limits: Packed
    coverage: Packed
    healthy: Packed
    whitening: Packed
    signatures: Mapping[str, Packed]
    as_new: AsNewModel | None = None

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        S = len(self.sensor_ids)
        J = S * Y
        expected = {
            "floor": S, "centre": J, "scale": J, "correlation": J * J, "limits": S * len(TESTS),
            "coverage": S, "healthy": J, "whitening": J * J,
        }  # fmt: skip
        _check_counts(self, expected, S)
        if self.as_new is not None:
            expected = {"centre": J, "covariance": J * J, "limits": S * len(TESTS), "rest": S}
            _check_counts(self.as_new, expected, S)
        for component_id, text in self.signatures.items():
            if not _count(text) or _count(text) % (J + 1):
                raise ValueError(
                    f"expected a multiple of {J + 1} numbers as the signature of '{component_id}', "
                    f"found {_count(text)}: retrain"
                )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class JointPlan:
    """A Gaussian over the summaries of a machine's sensors, and the limits of its tests.

    Args:
        centre_J: mean deviation, in the scales of the sensor model.
        precision_JJ: inverse of the covariance.
        weight_SYY: covariance of each sensor's numbers given those of all others.
        shape_SYY: the same of the numbers beside level and trend, given these too.
        level_S: variance of the level given all other numbers.
        limit_SQ: of `TESTS`.
        rest_S: see `AsNewModel`; None where a sensor is tested whatever the others are.
    """

    centre_J: Doubles
    precision_JJ: Doubles
    weight_SYY: Doubles
    shape_SYY: Doubles
    level_S: Doubles
    limit_SQ: Doubles
    rest_S: Doubles | None


def plan_joint(
    centre_J: Doubles, covariance_JJ: Doubles, limit_SQ: Doubles, rest_S: Doubles | None
) -> JointPlan:
    """Make the plan of a Gaussian; see `JointPlan`."""
    precision_JJ = inverse((covariance_JJ + covariance_JJ.T) / 2.0)
    own_SYY = own_blocks(precision_JJ)
    return JointPlan(
        centre_J=centre_J,
        precision_JJ=precision_JJ,
        weight_SYY=inverse(own_SYY),
        shape_SYY=inverse(own_SYY[:, 2:, 2:]),
        level_S=1.0 / own_SYY[:, 0, 0],
        limit_SQ=limit_SQ,
        rest_S=rest_S,
    )


@dataclass(frozen=True, slots=True, eq=False)
class SensorPlan:
    """A sensor model for one machine, whose sensors it may know in part.

    Args:
        sensor_S: positions in the machine of the sensors that the model knows.
        floor_S: see `summarise`.
        centre_SY: see `SensorModel`; likewise `scale_SY`.
        joints: of all windows of training, then of those as new, if the model has them.
        coverage_S: see `SensorModel`.
        component_A: component of each axis of the signatures, by position.
        axes_JA: from deviations in scales to the axes.
        offset_A: of a machine as new on the axes.
        gain_A: share of the square on an axis that the component explains.
        cost_A: what a component's evidence is reduced by for the axis.
        components: V of the machine.
        has_signature_V: which of them have a signature.
    """

    sensor_S: NDArray[np.int64]
    floor_S: Doubles
    centre_SY: Doubles
    scale_SY: Doubles
    joints: tuple[JointPlan, ...]
    coverage_S: Doubles
    component_A: NDArray[np.int64]
    axes_JA: Doubles
    offset_A: Doubles
    gain_A: Doubles
    cost_A: Doubles
    components: int
    has_signature_V: NDArray[np.bool_]


def plan_sensors(
    model: SensorModel,
    sensor_ids: Sequence[str],
    component_ids: Sequence[str],
) -> SensorPlan | None:
    """Make the plan of a machine; None where the model knows too few of its sensors.

    Args:
        model: of its design.
        sensor_ids: of the machine, in order.
        component_ids: of the machine, in order.
    """
    place_of = {sensor_id: place for place, sensor_id in enumerate(model.sensor_ids)}
    sensor_S = np.array([n for n, each in enumerate(sensor_ids) if each in place_of], np.int64)
    if len(sensor_S) < FEWEST_SENSORS:
        return None
    known_S = np.array([place_of[sensor_ids[n]] for n in sensor_S.tolist()])
    of_model = len(model.sensor_ids)
    known_J = (known_S[:, None] * Y + np.arange(Y)).reshape(-1)
    J = of_model * Y
    axes, owners, variances = [], [], []
    for number, component_id in enumerate(component_ids):
        if component_id in model.signatures:
            table = unpacked(model.signatures[component_id], J + 1, -1)
            axes.append(table[:-1])
            variances.append(table[-1])
            owners += [number] * table.shape[1]
    axis_JA = np.concatenate(axes, 1) if axes else np.empty((J, 0))
    variance_A = np.concatenate(variances) if axes else np.empty(0)
    axes_JA = (unpacked(model.whitening, J, J) @ axis_JA)[known_J]
    return SensorPlan(
        sensor_S=sensor_S,
        floor_S=unpacked(model.floor, of_model)[known_S],
        centre_SY=unpacked(model.centre, of_model, Y)[known_S],
        scale_SY=unpacked(model.scale, of_model, Y)[known_S],
        joints=_joints(model, known_S, known_J),
        coverage_S=unpacked(model.coverage, of_model)[known_S],
        component_A=np.array(owners, np.int64),
        axes_JA=axes_JA,
        offset_A=unpacked(model.healthy, J)[known_J] @ axes_JA,
        gain_A=variance_A / (1.0 + variance_A),
        cost_A=np.log1p(variance_A),
        components=len(component_ids),
        has_signature_V=np.array([each in model.signatures for each in component_ids], np.bool_),
    )


def _joints(
    model: SensorModel, known_S: NDArray[np.int64], known_J: NDArray[np.int64]
) -> tuple[JointPlan, ...]:
    S = len(model.sensor_ids)
    J, both = S * Y, np.ix_(known_J, known_J)
    limit_SQ = unpacked(model.limits, S, len(TESTS))[known_S]
    correlation_JJ = unpacked(model.correlation, J, J)[both]
    pooled = plan_joint(np.zeros(len(known_J)), correlation_JJ, limit_SQ, None)
    new = model.as_new
    if new is None:
        return (pooled,)
    # the square of fewer sensors is smaller
    share = (len(known_S) - 1) / (S - 1)
    of_new = plan_joint(
        unpacked(new.centre, J)[known_J],
        unpacked(new.covariance, J, J)[both],
        unpacked(new.limits, S, len(TESTS))[known_S],
        unpacked(new.rest, S)[known_S] * share,
    )
    return pooled, of_new


def own_blocks(matrix_JJ: Doubles) -> Doubles:
    """Return the blocks of the sensors on the diagonal, [S, Y, Y]."""
    S = len(matrix_JJ) // Y
    each = np.arange(S)
    return matrix_JJ.reshape(S, Y, S, Y)[each, :, each]


def inverse(matrix: Doubles) -> Doubles:
    """Return the inverse of matrices on the last two axes."""
    found: Doubles = np.linalg.inv(matrix).astype(np.float64, copy=False)
    return found


def _check_counts(model: BaseModel, expected: Mapping[str, int], sensors: int) -> None:
    found = {name: _count(getattr(model, name)) for name in expected}
    if found != expected:
        raise ValueError(
            f"expected {dict(expected)} numbers for {sensors} sensors, found {found}: retrain"
        )


def _count(text: str) -> int:
    return len(base64.b64decode(text)) // 4
