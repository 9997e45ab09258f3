"""Holds a runner to the reference: the float32 module on a CPU, whose outputs the checkpoint keeps.

The probes are windows with gaps, a graph without edges and a hub. A stored diagnosis must repeat
within 1e-5, so on a CPU only float32 passes.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from app.core.errors import CheckpointError
from app.features.binning import Floats
from app.model.config import ModelConfig
from app.model.graph import CHANNELS, GraphGroup, SkipOutput, Topology
from app.model.runtime.predictor import NetworkRunner, Predictor

TOLERANCE = 1e-5
"""Of probabilities and health, and of the other outputs in relation to their units."""
LOW_PRECISION_TOLERANCE = 2e-3
"""The same for bfloat16."""
OUTPUTS = ("probability", "health", "spread", "rate", "rul", "rul_spread")
_COMPONENTS = 8
_STEPS = 12
_LONE_ROUNDS = 7


def warm_up_group(config: ModelConfig, windows: int) -> GraphGroup:
    """Return windows without meaning with the model's shapes, of a ring of components.

    Every sensor that has a reference is present, so that skip and detector run; but each fourth
    window lacks one sensor, each eighth two, and each fifth has a gap.
    """
    V, S, T = _COMPONENTS, max(config.references, _COMPONENTS), _steps(config)
    order_S, order_V = np.arange(S), np.arange(V)
    next_V = (order_V + 1) % V
    shape = (windows, S, T, config.features)
    x_WSTF = np.sin(12.9898 * np.arange(np.prod(shape))).reshape(shape)  # the same everywhere
    mask_WST = np.ones((windows, S, T), np.bool_)
    mask_WST[3::4, 0] = False
    mask_WST[7::8, 1] = False
    mask_WST[4::5, 2, : T // 2] = False
    topology = Topology(
        sensor_component_S=np.sort(order_S % V),
        sensor_quantity_S=order_S % config.quantities,
        sensor_slot_S=np.where(order_S < config.references, order_S, -1),
        component_type_V=order_V % config.component_types,
        component_slot_V=order_V,
        grade_set_V=order_V % (len(config.grade_sets) + 1) - 1,
        edge_index_2E=np.concatenate(([order_V, next_V], [next_V, order_V]), axis=1),
        edge_relation_E=np.arange(2 * V) % config.relations,
    )
    return GraphGroup(topology, (x_WSTF * mask_WST[..., None]).astype(np.float32), mask_WST)


def probe_groups(config: ModelConfig) -> tuple[GraphGroup, ...]:
    """Return the probes: a ring with gaps, one window of it, no edges, a hub, fewer steps."""
    ring = warm_up_group(config, 6)
    edge_V = np.arange(1, _COMPONENTS)
    hub = np.stack((edge_V, 0 * edge_V))
    return (
        ring,
        ring.take([4]),
        _with_edges(ring, np.empty((2, 0), np.int64), config).take([0, 3]),
        _with_edges(ring, hub, config).take([1]),
        GraphGroup(ring.topology, ring.x_WSTF[:3, :, 1:], ring.mask_WST[:3, :, 1:]),
    )


def probe_skip(group: GraphGroup) -> SkipOutput:
    """Return an output of the skip for a probe, without meaning: every third component has none."""
    W, V = group.windows, group.topology.components
    is_alone_V1 = (np.arange(V) % 3 == 0)[:, None]
    wave_WVC = np.sin(4.1414 * np.arange(W * V * CHANNELS)).reshape(W, V, CHANNELS)
    return SkipOutput(
        np.where(is_alone_V1, 0.0, wave_WVC).astype(np.float32),
        np.where(is_alone_V1, 1.0, 0.3 + 0.0 * wave_WVC).astype(np.float32),
    )


def check_runner(
    runner: NetworkRunner,
    config: ModelConfig,
    expected: Mapping[str, Floats],
    tolerance: float = TOLERANCE,
) -> float:
    """Return the largest difference of a runner's outputs from the reference's.

    Args:
        runner: to be checked.
        config: of its model.
        expected: outputs of the reference, from `reference_outputs`.
        tolerance: largest difference allowed.

    Raises:
        CheckpointError: an output differs by more, or the most probable grade does.
    """
    units = {"rate": config.rate_unit, "rul": config.rul_unit_h, "rul_spread": config.rul_unit_h}
    worst = 0.0
    for number, group in enumerate(probe_groups(config)):
        for name, found in zip(OUTPUTS, runner.run(group, probe_skip(group)), strict=True):
            wanted = expected.get(f"{number}.{name}")
            if wanted is None or wanted.shape != found.shape:
                raise CheckpointError(
                    f"expected reference outputs of every probe, found none of '{name}' of probe "
                    f"{number}: take the checkpoint again from where it was trained"
                )
            scale = units.get(name, 1.0) * np.maximum(1.0, np.abs(wanted / units.get(name, 1.0)))
            apart = float(np.max(np.abs(found - wanted) / scale, initial=0.0))
            worst = max(worst, apart if np.isfinite(apart) else np.inf)
            if name == "probability" and (found.argmax(-1) != wanted.argmax(-1)).any():
                worst = max(worst, _near_tie(found, wanted, tolerance))
    if worst > tolerance:
        raise CheckpointError(
            f"expected {runner.name} within {tolerance:g} of the reference, found {worst:.1e}: "
            "take the checkpoint again from where it was trained"
        )
    return worst


def reference_outputs(runner: NetworkRunner, config: ModelConfig) -> dict[str, Floats]:
    """Return a runner's outputs for the probes by `<probe>.<output>`."""
    return {
        f"{number}.{name}": np.ascontiguousarray(array)
        for number, group in enumerate(probe_groups(config))
        for name, array in zip(OUTPUTS, runner.run(group, probe_skip(group)), strict=True)
    }


def lone_ms(predictor: Predictor) -> tuple[float, int]:
    """Measure a lone window: milliseconds, and its cells."""
    lone: Sequence[GraphGroup] = [warm_up_group(predictor.config, 1)]
    spent_s = []
    for _ in range(_LONE_ROUNDS):
        started = time.perf_counter()
        predictor.predict(lone)
        spent_s.append(time.perf_counter() - started)
    return 1e3 * min(spent_s), lone[0].cells


def _steps(config: ModelConfig) -> int:
    """Return the steps of windows that the skip or the detector reads."""
    steps = config.circuits[0].steps if config.circuits else config.ood_steps
    return steps or _STEPS


def _near_tie(found_WVK: Floats, wanted_WVK: Floats, tolerance: float) -> float:
    """Return 0 where differing grades are equally probable within the tolerance, else inf."""
    found_WV1, wanted_WV1 = found_WVK.argmax(-1)[..., None], wanted_WVK.argmax(-1)[..., None]
    gap_WV1 = np.take_along_axis(wanted_WVK, wanted_WV1, -1) - np.take_along_axis(
        wanted_WVK, found_WV1, -1
    )
    return 0.0 if float(gap_WV1.max()) <= 2 * tolerance else np.inf


def _with_edges(group: GraphGroup, edge_index_2E: np.ndarray, config: ModelConfig) -> GraphGroup:
    arrays = {name: getattr(group.topology, name) for name in Topology.__dataclass_fields__}
    del arrays["digest"]
    arrays |= {
        "edge_index_2E": edge_index_2E,
        "edge_relation_E": np.arange(edge_index_2E.shape[1]) % config.relations,
    }
    return GraphGroup(Topology(**arrays), group.x_WSTF, group.mask_WST)
