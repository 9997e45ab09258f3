"""Evaluate a checkpoint unchanged: `hydraulic train evaluate CHECKPOINT`.

The windows come from the store or from C-MAPSS files. Only the classical baselines are fitted;
temperatures, intervals and thresholds are those of the checkpoint. Invariant: the checkpoint's
directory is only read; the report is written elsewhere.
"""

import re
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint, load
from app.checkpoint.torch_model import load_model
from app.core.errors import InputError
from app.core.settings import Settings
from app.demo.cmapss.files import read_engines, read_remaining
from app.demo.cmapss.importer import TOPOLOGY_FILE, engine_topology
from train.config import TrainConfig
from train.data.engine_windows import engine_windows, last_of_each
from train.data.labels import EPOCH, MICROSECOND, Integers
from train.data.split import choose_split, split
from train.data.windows import Windows
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.fleet import metrics_of
from train.evaluation.holdout import predict_holdout
from train.evaluation.record import THIS, Evaluation, Heading
from train.evaluation.uncertainty import Given
from train.jobs.options import EvaluateOptions
from train.reporting.report import network_sizes, write_report
from train.reporting.verdict import SEEN

ELSEWHERE = "The checkpoint's own report has the figures of held-out windows."


class _Found(NamedTuple):
    """Evaluations by design, and further ones by name."""

    designs: dict[str, Evaluation]
    studies: dict[str, Evaluation]


def evaluate(path: Path, options: EvaluateOptions, command: str) -> int:
    """Evaluate a checkpoint, write its report and return the exit status.

    Args:
        path: its directory.
        options: of the command.
        command: that the report names.
    """
    checkpoint = load(path)
    config = config_of(checkpoint, path, options)
    settings = Settings().at(options.dsn)
    if options.cmapss is not None and options.rul is not None:
        found = _of_engines(checkpoint, config, options, options.cmapss, options.rul)
    else:
        from train.data.prepare import prepare  # starts Ray, which C-MAPSS files do not need

        with prepare(settings, settings.var_dir / "training", config) as fleet:
            found = _Found(
                {
                    windows.equipment.design: _of_windows(checkpoint, config, windows)
                    for windows in fleet.designs
                },
                {},
            )
    first = next(iter(found.designs.values()))
    out: Path = options.out or settings.var_dir / "evaluations" / directory_name(
        checkpoint.manifest, first
    )
    write_report(metrics_of(_heading(checkpoint, command), found.designs, found.studies), out)
    for design, evaluation in found.designs.items():
        for line in _lines(evaluation):
            print(f"{design}: {line}" if len(found.designs) > 1 else line)
    print(f"wrote {out / files.REPORT}")
    return 0


def _of_windows(checkpoint: Checkpoint, config: TrainConfig, windows: Windows) -> Evaluation:
    """Evaluate on the windows of a design that the folds of a split hold out.

    Baselines are fitted to the training windows of the folds. The checkpoint is not fitted again,
    so the split withholds windows from the baselines only.
    """
    config, _ = choose_split(windows, config)
    predict = partial(predict_holdout, load_model(checkpoint), checkpoint.feature_spec, windows)
    parts = [
        predict(part.name, part.train_W, part.holdout_W, config.seed)
        for part in split(windows, config)
    ]
    seen = may_have_seen(
        checkpoint.manifest, windows, np.concatenate([part.holdout_W for part in parts])
    )
    evaluation = evaluate_parts(
        windows,
        parts,
        config,
        split=config.split,
        given=_given(checkpoint, windows.equipment.design),
        cap_h=config.cap_h(windows.equipment.design),
        seen=seen,
    )
    notes = (ELSEWHERE, *evaluation.notes) if seen else evaluation.notes
    return evaluation.model_copy(update={"notes": notes})


def may_have_seen(manifest: files.Manifest, windows: Windows, chosen_W: Integers) -> bool:
    """Return whether any of the windows may have been in a checkpoint's training.

    That is a window of a trained design inside the data interval. The manifest names no machines,
    so windows of another machine of the design count too.

    Args:
        manifest: of the checkpoint.
        windows: of machines of one design.
        chosen_W: positions of the windows.
    """
    if windows.equipment.design not in manifest.designs:
        return False
    start_us, end_us = (
        (at - EPOCH) // MICROSECOND for at in (manifest.data.start, manifest.data.end)
    )
    start_us_W = windows.labels.start_us_W[chosen_W]
    window_us = windows.equipment.bins * windows.equipment.grid_us
    return bool(((start_us_W < end_us) & (start_us_W + window_us > start_us)).any())


def directory_name(manifest: files.Manifest, evaluation: Evaluation) -> str:
    """Return the name of a report's directory, distinct for design, version and split."""
    return f"{evaluation.design}-{manifest.version}-" + re.sub(r"[^\w.-]+", "-", evaluation.split)


def _of_engines(
    checkpoint: Checkpoint, config: TrainConfig, options: EvaluateOptions, cmapss: Path, rul: Path
) -> _Found:
    """Evaluate on the last window of each test engine, and separately on all of their windows."""
    topology = engine_topology(options.topology or TOPOLOGY_FILE)
    design = topology.design
    failing = {
        component_id: found.rul_cap_h
        for component_id, found in checkpoint.calibration.components.get(design, {}).items()
        if found.rul_cap_h is not None
    }
    if len(failing) != 1:
        raise InputError(
            "expected a checkpoint that predicts the remaining life of one component of design "
            f"'{design}', found {', '.join(failing) or 'none'}: evaluate another checkpoint, or "
            "import the files and use --equipment",
            "checkpoint",
        )
    ((component_id, cap_h),) = failing.items()
    tested = read_engines(cmapss)
    remaining = read_remaining(rul, len(tested))
    trained = [] if options.train is None else read_engines(options.train)
    names = [
        *(f"train-{engine.unit}" for engine in trained),
        *(f"test-{engine.unit}" for engine in tested),
    ]
    with tempfile.TemporaryDirectory() as name:
        windows = engine_windows(
            Path(name),
            topology,
            [*trained, *tested],
            [0.0] * len(trained) + remaining,
            component_id,
            cap_h,
            names,
        )
        is_test_W = windows.labels.machine_W >= len(trained)
        train_W, all_W = np.flatnonzero(~is_test_W), np.flatnonzero(is_test_W)
        last_W = np.intersect1d(last_of_each(windows), all_W)
        if len(last_W) != len(tested):
            raise InputError(
                f"expected each of the {len(tested)} engines to have a fifth of a window of "
                f"{topology.bins} cycles, found {len(tested) - len(last_W)} shorter ones: give a "
                "topology with a shorter window, and train with it",
                "topology",
            )
        predict = partial(predict_holdout, load_model(checkpoint), checkpoint.feature_spec, windows)
        evaluate = partial(
            evaluate_parts, windows, config=config, given=_given(checkpoint, design), cap_h=cap_h
        )
        last = predict("last window of each engine", train_W, last_W, config.seed)
        every = predict("every cycle", train_W, all_W, probes=0, removal_probes=0)
        of_last = evaluate([last], split=cmapss.name)
        of_all = evaluate([every], split="every cycle", with_baselines=False)
    return _Found({design: of_last}, {"every cycle of the test engines": of_all})


def _given(checkpoint: Checkpoint, design: str) -> Given:
    sets = [
        (number, component)
        for number, (of, component) in enumerate(checkpoint.feature_spec.grade_sets())
        if of == design
    ]
    temperature_G = load_model(checkpoint).ensemble.temperature_G.tolist()
    return Given(
        temperatures={component: temperature_G[number] for number, component in sets},
        calibration=checkpoint.calibration,
        limits=checkpoint.feature_spec.limits.get(design),
        masking=checkpoint.manifest.masking,
    )


def config_of(checkpoint: Checkpoint, directory: Path, options: EvaluateOptions) -> TrainConfig:
    """Return the config of the checkpoint's training, changed by the options of the command."""
    path = directory / files.TRAIN_CONFIG
    try:
        trained = TrainConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        print(
            f"'{path}' was not written by this release: windows are made with its defaults",
            file=sys.stderr,
        )
        trained = TrainConfig(design=",".join(checkpoint.manifest.designs))
    update: dict[str, object] = {"statistics": checkpoint.feature_spec.statistics}
    if options.equipment or options.design:
        update |= {"equipment": options.equipment, "design": options.design}
    if options.split:
        update["split"] = options.split
    return trained.model_copy(update=update)


def _heading(checkpoint: Checkpoint, command: str) -> Heading:
    manifest, config = checkpoint.manifest, checkpoint.config
    return Heading(
        version=manifest.version,
        command=command,
        git_revision=manifest.git_revision,
        created=manifest.created,
        start=manifest.data.start,
        end=manifest.data.end,
        weights=load_model(checkpoint).ensemble.parameter_count,
        shape=network_sizes(config),
    )


def _lines(evaluation: Evaluation) -> list[str]:
    lines = [SEEN] if evaluation.seen else []
    for name, each in evaluation.scorecards.items():
        scores = ", ".join(f"{c} {found.pooled.macro_f1:.3f}" for c, found in each.grades.items())
        if scores:
            match = each.exact_match
            exact = "" if match is None else f", exact match {match.pooled:.3f}"
            lines.append(f"{name}: macro-F1 {scores}{exact}")
        for component, life in each.life.items():
            error = f"RMSE {life.pooled.rmse_h:.2f} h, PHM08 {life.pooled.phm08:.1f}"
            lines.append(
                f"{name}: remaining life of {component}: {error}, {life.pooled.windows} windows"
            )
    for component, found in evaluation.uncertainty.items():
        for quantity, interval in (("health", found.health), ("remaining life", found.rul)):
            if interval is not None:
                lines.append(
                    f"{THIS}: 90 % intervals of {component}'s {quantity} cover "
                    f"{interval.coverage:.1%}"
                )
    return lines
