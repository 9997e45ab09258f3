"""Fits one network to the windows that are not held out, on one of the workers that share each batch.

Knows nothing of Ray: how gradients are shared comes in as `Share.wrap`.
Invariant: a fit's weights and references see no window that it holds out, and all workers draw the same order of windows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from app.bins import Floats
from app.feature_spec import FeatureSpec
from app.graph import GraphBatch, concatenate
from app.model import GraphTensors, Heads, ModelConfig, UniversalTemporalGNN, to_tensors
from train.config import TrainConfig
from train.dataset import WindowSet, disturb, join, mix, window_graphs, with_gaps
from train.evaluate import HeldOut, grade_probability, score_grades
from train.labels import Booleans, Integers
from train.loss import Targets, training_loss
from train.opinion import fit_opinion
from train.reference import spec_of
from train.split import training_windows

GLANCE = 64
"""Held-out windows that an epoch's line is scored on."""

Tensors = TypeVar("Tensors", GraphTensors, Targets)


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each batch is this worker's.

    Args:
        rank: of this worker, from 0.
        world: how many workers there are.
        device: that it computes on.
        wrap: makes the network share its gradients with the other workers.
        say: takes a line of progress.
    """

    rank: int
    world: int
    device: torch.device
    wrap: Callable[[nn.Module], nn.Module]
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted network and, on rank 0, what it answered for the windows that it held out, `held_W` in order of time."""

    model: UniversalTemporalGNN
    spec: FeatureSpec
    held_out: HeldOut
    held_W: Integers


@dataclass(frozen=True, slots=True)
class _Material:
    """What a fit is made of: graphs of the windows it sees, whole and with gaps, and their grades."""

    whole: list[GraphBatch]
    gappy: list[GraphBatch]
    grade_WV: Integers
    healths: list[Floats]


def network(spec: FeatureSpec, config: TrainConfig, steps: int) -> ModelConfig:
    """Size the network by the feature spec's vocabularies, the windows' steps and the training's choices."""
    return ModelConfig(
        features=spec.features,
        quantities=len(spec.quantities),
        component_types=len(spec.component_types),
        relations=2 * len(spec.media),
        grade_sets=tuple(
            tuple(grade.health for grade in spec.grades[design][component]) for design, component in spec.grade_sets()
        ),
        hidden=config.hidden,
        heads=config.heads,
        attention_layers=config.attention_layers,
        lstm_layers=config.lstm_layers,
        dropout=config.dropout,
        members=config.members,
        references=len(spec.sensor_slots()),
        opinion_steps=steps if config.opinion_weight else 0,
        opinion_weight=config.opinion_weight,
    )


def run_fit(windows: WindowSet, held_out_W: Booleans, config: TrainConfig, name: str, share: Share) -> Fit:
    """Fit one network.

    Args:
        windows: all labelled windows.
        held_out_W: windows that the fit must not see.
        config: of the training.
        name: of the fit, for the lines of progress.
        share: this worker's.

    Returns:
        The fit.

    Raises:
        ValueError: the windows do not fill one batch.
    """
    seen = training_windows(held_out_W, windows.warm_up_W, windows.configuration_W, config.warm_up_windows, config.seed)
    steps = len(seen) // config.batch
    if steps == 0:
        raise ValueError(
            f"expected at least {config.batch} training windows, found {len(seen)}: import more or lower --batch"
        )
    generator = np.random.default_rng(config.seed)
    spec = spec_of([windows.values_WSN[seen]], windows.equipment, config)
    material = _material(windows, seen, spec, generator)
    held_W = np.flatnonzero(held_out_W).astype(np.int64)
    graphs, features = window_graphs(windows.values_WSN[held_W if share.rank == 0 else []], windows.equipment, spec)
    glance = np.linspace(0, len(graphs) - 1, min(GLANCE, len(graphs))).astype(np.int64)

    torch.manual_seed(config.seed)
    model = UniversalTemporalGNN(network(spec, config, windows.equipment.steps)).to(share.device)
    wrapped = share.wrap(model)
    # What is dropped differs between the workers, the first weights do not.
    torch.manual_seed(config.seed * share.world + share.rank)
    noise = torch.Generator().manual_seed(config.seed * share.world + share.rank)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * steps, pct_start=0.15
    )
    for epoch in range(config.epochs):
        started, total = time.monotonic(), 0.0
        wrapped.train()
        order = generator.permutation(len(seen))
        has_gap_W = generator.random(len(seen)) < config.gap_share
        for step in range(steps):
            mine = order[step * config.batch : (step + 1) * config.batch][share.rank :: share.world]
            loss = _loss(wrapped, material, mine, has_gap_W, config, share.device, generator, noise)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(wrapped.parameters(), config.clip_norm * config.members**0.5)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) / config.members
        if share.rank == 0:
            rate = steps * config.batch / (time.monotonic() - started)
            score = _glance(model, [graphs[index] for index in glance], windows.labels.grade_WV[held_W[glance]])
            share.say(
                f"{name:>9}  epoch {epoch + 1:>3}/{config.epochs}  seed {config.seed}  loss {total / steps:.3f}  "
                f"held-out macro-F1 {score}  {rate:.0f} samples/s"
            )
    if share.rank == 0 and config.opinion_weight:
        fit_opinion(model, material.whole, material.grade_WV, windows.equipment)
    excess_WS = np.array([each.excess_S for each in features], np.float32).reshape(
        len(features), len(windows.equipment.sensors)
    )
    return Fit(model, spec, HeldOut(predict(model, graphs), opinions(model, graphs), excess_WS), held_W)


def predict(model: UniversalTemporalGNN, graphs: list[GraphBatch], batch: int = 64) -> Floats:
    """Return score - threshold of every member and component of each window, [W, M, V, J].

    All graphs must have the same components.
    """
    model.eval()
    parts: list[Floats] = []
    with torch.inference_mode():
        for start in range(0, len(graphs), batch):
            part = graphs[start : start + batch]
            heads = model(to_tensors(concatenate(part), model.type_MCD.device))
            logit_MVJ: Tensor = heads.score_MV[..., None] - heads.threshold_MVJ
            shape = (logit_MVJ.shape[0], len(part), -1, logit_MVJ.shape[-1])
            parts.append(logit_MVJ.reshape(shape).transpose(0, 1).cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, model.config.members, 0, 0), np.float32)


def opinions(model: UniversalTemporalGNN, graphs: list[GraphBatch], batch: int = 64) -> Floats:
    """Return what the second opinion says of every component of each window, [W, V, K]; NaN where it has none.

    All graphs must have the same components.
    """
    parts: list[Floats] = []
    with torch.inference_mode():
        for start in range(0, len(graphs), batch):
            part = graphs[start : start + batch]
            logit_VK: Tensor = model.opinion(to_tensors(concatenate(part), model.type_MCD.device))
            parts.append(logit_VK.reshape(len(part), -1, logit_VK.shape[-1]).cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, 0, 0), np.float32)


def _material(windows: WindowSet, seen: Integers, spec: FeatureSpec, generator: np.random.Generator) -> _Material:
    values_WSN, equipment = windows.values_WSN[seen], windows.equipment
    return _Material(
        whole=window_graphs(values_WSN, equipment, spec)[0],
        gappy=window_graphs(with_gaps(values_WSN, generator), equipment, spec)[0],
        grade_WV=windows.labels.grade_WV[seen],
        healths=[np.array([grade.health for grade in each.grades], np.float32) for each in equipment.components],
    )


def _loss(
    wrapped: nn.Module,
    material: _Material,
    mine: Integers,
    has_gap_W: Booleans,
    config: TrainConfig,
    device: torch.device,
    generator: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """Disturb and blend this worker's windows of a batch and return their loss."""
    chosen = [material.gappy[index] if has_gap_W[index] else material.whole[index] for index in mine.tolist()]
    graph, targets = join(chosen, material.grade_WV[mine], material.healths)
    graph = disturb(graph, len(chosen), config, noise)
    drawn = float(generator.beta(config.mixup, config.mixup)) if config.mixup else 1.0
    own = max(drawn, 1.0 - drawn)
    graph, partners = mix(graph, targets, len(chosen), own, noise)
    heads: Heads = wrapped(_to(graph, device))
    own_loss, partner_loss = (
        training_loss(heads, _to(each, device), config.health_weight) for each in (targets, partners)
    )
    return own * own_loss + (1.0 - own) * partner_loss


def _to(tensors: Tensors, device: torch.device) -> Tensors:
    return type(tensors)(*(tensor.to(device) for tensor in tensors))


def _glance(model: UniversalTemporalGNN, graphs: list[GraphBatch], grade_WV: Integers) -> str:
    """Return the mean over the graded components of the macro-F1 on a few held-out windows."""
    if not graphs:
        return "none held out"
    logit_WMVJ = predict(model, graphs)
    scores = [
        score_grades(grade_WV[:, node], grade_probability(logit_WMVJ[:, :, node], 1.0).argmax(-1)).macro_f1
        for node in np.flatnonzero((grade_WV >= 0).all(0)).tolist()
    ]
    return f"{np.mean(scores):.3f}"
