"""Chooses at a replica's start how its network is run: by measuring, among implementations that answer as the reference does.

The reference is the network in float32 on the CPU, one thread, every graph alone. A stored diagnosis must come out again within
1e-5, so on a CPU only float32 is a candidate: bfloat16 moves a health by thousandths, other ones in other company, and was not
faster there. On a GPU it is tried; the version's description says what was taken.
Invariant: an implementation that fails its gate is never chosen.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from app.core.errors import CheckpointError
from app.features.binning import Floats
from app.model.graph import GraphBatch, Integers, ModelOutput, concatenate
from app.model.network import ModelConfig, Network, UniversalTemporalGNN, score
from app.model.runtime.bounded import BoundedNetwork, graphs_between
from app.model.runtime.inference import InferenceNetwork

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-3}
"""Largest difference of a health from the reference's, by the type of the numbers."""

_BATCH_GRAPHS = 16
_COMPONENTS = 8
_STEPS = 12
_ROUNDS = 7
_BUDGET_S = 0.6
_FASTER = 0.9
"""An implementation is taken when it needs less than this share of the time of the one that it would replace: less is noise."""
_FASTER_THREADED = 0.7
"""The same of one that keeps more cores busy."""


class Implementation(NamedTuple):
    """A way to run a network: `network`, as it is trained, or `inference`, see `app.model.runtime.inference`."""

    kind: str
    dtype: torch.dtype
    threads: int

    @property
    def name(self) -> str:
        """Return it as it is logged, such as `inference float32 x1`."""
        return f"{self.kind} {str(self.dtype).removeprefix('torch.')} x{self.threads}"


@dataclass(frozen=True, slots=True)
class Trial:
    """What was found of one implementation.

    Args:
        implementation: that was tried.
        difference: the largest of a health from the reference's.
        refusal: why it was refused; empty when it was not.
        cpu_ms: processor time for a graph in a batch, inf when it was refused.
        wall_ms: the same by the wall's clock.
    """

    implementation: Implementation
    difference: float
    refusal: str
    cpu_ms: float = float("inf")
    wall_ms: float = float("inf")

    def __str__(self) -> str:
        """Return it as it is logged."""
        found = (
            self.refusal or f"{self.cpu_ms:.2f} ms of processor and {self.wall_ms:.2f} ms a graph"
        )
        return f"{self.implementation.name}: {found}, off by {self.difference:.1e}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The network as it serves, how, the time that a lone graph of `lone_rows` sensors times steps holds it, and all that was tried."""

    network: Network
    implementation: Implementation
    lone_ms: float
    lone_rows: int
    trials: tuple[Trial, ...]


Make = Callable[[UniversalTemporalGNN, Implementation], Network]
"""Builds what runs a network as an implementation says."""


class _Probe(NamedTuple):
    """A batch and what the reference says of its graphs, each alone."""

    batch: GraphBatch
    health_V: Floats
    grade_V: Integers


def built(model: UniversalTemporalGNN, implementation: Implementation) -> Network:
    """Build what runs a network as an implementation says."""
    return (
        model if implementation.kind == "network" else InferenceNetwork(model, implementation.dtype)
    )


def candidates(device: torch.device, threads: int) -> list[Implementation]:
    """Return the implementations worth having on a device, the plainest first."""
    plain, prepared = (
        Implementation("network", torch.float32, 1),
        Implementation("inference", torch.float32, 1),
    )
    if device.type == "cuda":
        return [plain, prepared, prepared._replace(dtype=torch.bfloat16)]
    return [plain, prepared, *([prepared._replace(threads=threads)] if threads > 1 else [])]


def choose(model: UniversalTemporalGNN, threads: int, make: Make = built) -> Choice:
    """Try the implementations worth having and take the fastest that answers as the reference does.

    On a CPU the processor's time for a graph decides, since other replicas want the same cores, and more threads are taken only
    where they save a good part of the wait; on a GPU the wait decides. Sets the process's number of threads.

    Args:
        model: in evaluation mode, on its device.
        threads: the most that a forward pass may use on a CPU.
        make: builds the candidates.

    Raises:
        CheckpointError: none of them answers as the reference does.
    """
    device = model.type_MCD.device
    torch.set_num_threads(1)
    probes = _probes(model if device.type == "cpu" else copy.deepcopy(model).cpu())
    networks: dict[Implementation, Network] = {}
    trials: list[Trial] = []
    for implementation in candidates(device, threads):
        torch.set_num_threads(implementation.threads)
        networks[implementation] = BoundedNetwork(make(model, implementation))
        trials.append(_gated(implementation, networks[implementation], probes))
    eligible = _timed([trial for trial in trials if not trial.refusal], networks, probes[0].batch)
    if not eligible:
        raise CheckpointError(
            "expected an implementation that answers as the reference does, found none; replace the checkpoint: "
            + "; ".join(str(trial) for trial in trials)
        )
    best = eligible[0]
    for trial in eligible[1:]:
        best = trial if _beats(trial, best, device) else best
    network, lone = networks[best.implementation], graphs_between(probes[0].batch, 0, 1)
    torch.set_num_threads(best.implementation.threads)
    lone_ms = min(min(_spent_ms(network, lone)) for _ in range(_ROUNDS))
    measured = {trial.implementation: trial for trial in eligible}
    return Choice(
        network,
        best.implementation,
        lone_ms,
        lone.mask_ST.size,
        tuple(measured.get(trial.implementation, trial) for trial in trials),
    )


def warm_up_graphs(config: ModelConfig, graphs: int) -> GraphBatch:
    """Return graphs with the network's shapes and no meaning: a ring of components with noise as features.

    Every sensor that has a reference is there, so that the whole second opinion speaks; but each fourth window lacks one
    sensor, and each eighth two.
    """
    V, S, T = _COMPONENTS, max(config.references, _COMPONENTS), config.opinion_steps or _STEPS
    order_S, order_V = np.arange(S), np.arange(V)
    next_V = (order_V + 1) % V
    x_WSTF = (
        np.random.default_rng(0)
        .normal(0.0, 0.5, (graphs, S, T, config.features))
        .astype(np.float32)
    )
    mask_WST = np.ones((graphs, S, T), np.bool_)
    mask_WST[3::4, 0] = False
    mask_WST[7::8, 1] = False
    x_WSTF[~mask_WST] = 0.0
    one = GraphBatch(
        x_STF=x_WSTF[0],
        mask_ST=mask_WST[0],
        sensor_component_S=order_S % V,
        sensor_quantity_S=order_S % config.quantities,
        sensor_slot_S=np.where(order_S < config.references, order_S, -1),
        sensor_graph_S=np.zeros(S, np.int64),
        component_type_V=order_V % config.component_types,
        component_graph_V=np.zeros(V, np.int64),
        grade_set_V=order_V % (len(config.grade_sets) + 1) - 1,
        edge_index_2E=np.stack(
            (np.concatenate((order_V, next_V)), np.concatenate((next_V, order_V)))
        ),
        edge_relation_E=np.arange(2 * V) % config.relations,
        graphs=1,
    )
    return concatenate(
        [replace(one, x_STF=x, mask_ST=mask) for x, mask in zip(x_WSTF, mask_WST, strict=True)]
    )


def _probes(reference: UniversalTemporalGNN) -> tuple[_Probe, ...]:
    """Return windows of one topology, one of them alone, and windows of two topologies."""
    batch = warm_up_graphs(reference.config, _BATCH_GRAPHS)
    graphs = [graphs_between(batch, number, number + 1) for number in range(batch.graphs)]
    other = replace(
        graphs[0],
        edge_index_2E=graphs[0].edge_index_2E[:, 1:],
        edge_relation_E=graphs[0].edge_relation_E[1:],
    )
    alone, of_other = [score(reference, graph) for graph in graphs], score(reference, other)
    return (
        _probe(batch, alone),
        _probe(graphs[0], alone[:1]),
        _probe(concatenate([other, *graphs[1:]]), [of_other, *alone[1:]]),
    )


def _probe(batch: GraphBatch, outputs: list[ModelOutput]) -> _Probe:
    grade_V = np.concatenate([_grade(output) for output in outputs])
    return _Probe(batch, np.concatenate([output.health_V for output in outputs]), grade_V)


def _grade(output: ModelOutput) -> Integers:
    """Return the most probable grade of each component, 0 without grades."""
    grade_V: Integers = np.nan_to_num(output.grade_probability_VK, nan=-1.0).argmax(1)
    return grade_V


def _gated(implementation: Implementation, network: Network, probes: tuple[_Probe, ...]) -> Trial:
    """Hold an implementation against the reference."""
    difference, refusal = 0.0, ""
    for probe in probes:
        output = score(network, probe.batch)
        off = float(np.abs(output.health_V - probe.health_V).max())
        difference = max(difference, off) if np.isfinite(off) else float("inf")
        if not difference <= CLOSE[implementation.dtype]:
            refusal = f"refused, expected healths within {CLOSE[implementation.dtype]:g} of the reference's"
        elif (_grade(output) != probe.grade_V).any():
            refusal = "refused, expected the reference's most probable grades"
    return Trial(implementation, difference, refusal)


def _timed(
    trials: list[Trial], networks: dict[Implementation, Network], batch: GraphBatch
) -> list[Trial]:
    """Time implementations in turns, so that what disturbs one disturbs all, and keep the best time of each."""
    until = time.perf_counter() + _BUDGET_S
    spent: dict[Implementation, list[tuple[float, float]]] = {
        trial.implementation: [] for trial in trials
    }
    for _ in range(_ROUNDS):
        for implementation, times in spent.items():
            torch.set_num_threads(implementation.threads)
            times.append(_spent_ms(networks[implementation], batch))
        if time.perf_counter() > until:
            break
    return [
        replace(
            trial,
            cpu_ms=min(cpu for cpu, _ in spent[trial.implementation]) / batch.graphs,
            wall_ms=min(wall for _, wall in spent[trial.implementation]) / batch.graphs,
        )
        for trial in trials
    ]


def _spent_ms(network: Network, batch: GraphBatch) -> tuple[float, float]:
    cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
    score(network, batch)
    return (time.process_time_ns() - cpu_ns) / 1e6, (time.perf_counter_ns() - wall_ns) / 1e6


def _beats(trial: Trial, best: Trial, device: torch.device) -> bool:
    if trial.implementation.threads > best.implementation.threads:
        return trial.wall_ms < _FASTER_THREADED * best.wall_ms
    if device.type == "cuda":
        return trial.wall_ms < _FASTER * best.wall_ms
    return trial.cpu_ms < _FASTER * best.cpu_ms
