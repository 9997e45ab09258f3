"""A saved checkpoint loads unchanged; parts that do not fit together are refused by name."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.checkpoint import manifest as files
from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.checkpoint.files import load
from app.checkpoint.manifest import (
    DataInterval,
    read_calibration,
    read_feature_spec,
    read_manifest,
    sha256_of,
)
from app.checkpoint.torch_model import Origin, load_model, save
from app.core.errors import CheckpointError
from tests.features import window_features
from tests.graphs import build_graph, predict, untrained
from tests.small import Small, small, wave

CALIBRATION = Calibration(
    components={"press": {"pump": ComponentCalibration(health_reach=2.5, least_confidence=0.7)}}
)
START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)


def write(directory: Path, made: Small, calibration: Calibration = CALIBRATION) -> Path:
    origin = Origin(
        version="7",
        created=END,
        git_revision="f" * 40,
        seed=3,
        command="python -m train",
        data=DataInterval(start=START, end=END, windows=40),
        trained_heads={"grade": {"press": ("pump", "valve")}, "health": {}, "rate": {}, "rul": {}},
    )
    save(
        directory,
        made.model,
        made.spec,
        calibration,
        origin,
        {files.METRICS: '{"a": 1}', files.REPORT: "# report\n"},
        with_onnx=False,
    )
    return directory


def restate(directory: Path, name: str) -> None:
    """Write the file's present SHA-256 into the manifest, as after an edit by hand."""
    manifest = json.loads((directory / files.MANIFEST).read_text())
    manifest["sha256"][name] = sha256_of(directory / name)
    (directory / files.MANIFEST).write_text(json.dumps(manifest))


def test_loaded_network_answers_as_the_saved_one(tmp_path: Path) -> None:
    made = small()
    made.model.ensemble.temperature_G[:] = 1.7
    loaded = load(write(tmp_path / "7", made))
    graph = build_graph(
        made.equipment,
        window_features(wave(1, 4)[0], made.equipment, made.spec),
        loaded.feature_spec,
    )
    np.testing.assert_array_equal(
        predict(load_model(loaded), graph).probability_WVK,
        predict(made.model, graph).probability_WVK,
    )
    assert loaded.config == made.config
    assert loaded.feature_spec == made.spec
    assert loaded.calibration == CALIBRATION
    assert loaded.manifest.designs == ("press",)
    assert not load_model(loaded).ensemble.training


def test_loading_leaves_random_numbers_alone(tmp_path: Path) -> None:
    directory = write(tmp_path / "7", small())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_model(load(directory))
    assert torch.rand(1) == expected


def test_card_spec_calibration_and_metrics_are_read_without_torch(tmp_path: Path) -> None:
    directory = write(tmp_path / "7", small())
    assert read_calibration(directory, read_feature_spec(directory)) == CALIBRATION
    assert read_manifest(directory).data.windows == 40
    assert json.loads((directory / files.METRICS).read_text()) == {"a": 1}
    program = (
        "import sys, app.checkpoint.predictor, app.diagnosis.build; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_checkpoint_is_never_written_over(tmp_path: Path) -> None:
    write(tmp_path / "7", small())
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        write(tmp_path / "7", small())


def test_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"expected a checkpoint with checkpoint.json in '.*none'.*hydraulic train start",
    ):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    "name", [files.WEIGHTS, files.FEATURE_SPEC, files.CALIBRATION, files.MODEL_CONFIG, files.REPORT]
)
def test_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    directory = write(tmp_path / "7", small())
    with (directory / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(
        CheckpointError,
        match=rf"expected '.*{name}' with SHA-256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}",
    ):
        load(directory)


def test_missing_file_is_named(tmp_path: Path) -> None:
    directory = write(tmp_path / "7", small())
    (directory / files.WEIGHTS).unlink()
    with pytest.raises(
        CheckpointError, match=r"expected the checkpoint's file '.*weights.safetensors'"
    ):
        load(directory)


def test_checkpoint_without_detector_is_read(tmp_path: Path) -> None:
    made = small()
    config = replace(made.config, ood_axes=0)
    directory = write(tmp_path / "7", replace(made, config=config, model=untrained(config)))
    loaded = load(directory)
    assert loaded.config == config
    assert loaded.detector is None
    graph = build_graph(
        made.equipment, window_features(wave(1, 4)[0], made.equipment, made.spec), made.spec
    )
    assert np.isnan(predict(load_model(loaded), graph).distance_WV).all()


def edit_json(name: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        data = json.loads((directory / name).read_text())
        change(data)
        (directory / name).write_text(json.dumps(data))
        restate(directory, name)

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        weights = load_file(directory / files.WEIGHTS)
        change(weights)
        save_file(weights, directory / files.WEIGHTS)
        restate(directory, files.WEIGHTS)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            edit_weights(lambda weights: weights.update({"members.0.place.bias": torch.zeros(9)})),
            r"'members.0.place.bias' of shape \(8,\).*has \(9,\)",
        ),
        (edit_weights(lambda weights: weights.pop("ood.limit_G")), "'ood.limit_G'.*missing"),
        (
            edit_weights(lambda weights: weights.update(more=torch.zeros(1))),
            "'more' of shape none .unknown name.",
        ),
        (
            edit_json(files.MODEL_CONFIG, lambda data: data.update(features=9)),
            "has 9 as features of a sensor.*has 4",
        ),
        (
            edit_json(files.MODEL_CONFIG, lambda data: data.update(widths=9)),
            "expected the keys .* found .*'widths'",
        ),
        (
            edit_json(files.MODEL_CONFIG, lambda data: data.update(grade_sets=3)),
            "no size of a network",
        ),
        (edit_json(files.FEATURE_SPEC, lambda data: data.update(clip=-1)), "is not a feature spec"),
        (
            edit_json(files.CALIBRATION, lambda data: data.update(coverage=90)),
            r"calibration.json' is not a calibration",
        ),
        (
            edit_json(
                files.CALIBRATION,
                lambda data: data["components"]["press"]["pump"].update(health_reach=-1),
            ),
            "health_reach",
        ),  # type: ignore[index]
        (
            edit_json(
                files.CALIBRATION,
                lambda data: data["components"].update(lathe={}),  # type: ignore[attr-defined]
            ),
            (
                r"expected designs of the feature spec \(press\) in "
                r"'.*calibration.json', found 'lathe'"
            ),
        ),
        (
            edit_json(
                files.FEATURE_SPEC,
                lambda data: data["grades"]["press"].pop("valve"),  # type: ignore[index]
            ),
            "healths of the grade sets",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, edit: Callable[[Path], None], message: str
) -> None:
    directory = write(tmp_path / "7", small())
    edit(directory)
    with pytest.raises(CheckpointError, match=message):
        load_model(load(directory))


def test_weights_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    directory = write(tmp_path / "7", small())
    (directory / files.WEIGHTS).write_bytes(b"\x80\x04pickle")
    restate(directory, files.WEIGHTS)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load(directory)


@pytest.mark.parametrize("name", [files.WEIGHTS, files.CALIBRATION])
def test_card_that_does_not_state_a_needed_file_is_refused(tmp_path: Path, name: str) -> None:
    directory = write(tmp_path / "7", small())
    edit = json.loads((directory / files.MANIFEST).read_text())
    del edit["sha256"][name]
    (directory / files.MANIFEST).write_text(json.dumps(edit))
    with pytest.raises(CheckpointError, match=f"found no {name}"):
        load(directory)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (3, r"found format 3 of an earlier release: train it again with `hydraulic train start`"),
        (5, "found format 5 of a later release"),
        ("4.0", "not the manifest of a checkpoint of format 4"),
    ],
)
def test_manifest_of_another_format_is_refused(
    tmp_path: Path, stated: object, message: str
) -> None:
    directory = write(tmp_path / "7", small())
    edit = json.loads((directory / files.MANIFEST).read_text())
    (directory / files.MANIFEST).write_text(json.dumps({**edit, "format": stated}))
    with pytest.raises(CheckpointError, match=message):
        load(directory)


def test_spec_that_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    made = small()
    with pytest.raises(CheckpointError, match=r"has \d+ as relations"):
        write(
            tmp_path / "7", replace(made, spec=made.spec.model_copy(update={"media": ("shaft",)}))
        )
    assert not (tmp_path / "7").exists()


def test_calibration_of_a_component_that_the_spec_does_not_know_is_not_saved(
    tmp_path: Path,
) -> None:
    unknown = Calibration(
        components={"press": {"tank": ComponentCalibration(least_confidence=0.7)}}
    )
    with pytest.raises(
        CheckpointError,
        match=r"only of components with grades \(pump, valve\), found one of 'tank'",
    ):
        write(tmp_path / "7", small(), unknown)
    assert not (tmp_path / "7").exists()


def test_calibration_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a calibration"):
        read_calibration(tmp_path, small().spec)


def test_spec_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a feature spec"):
        read_feature_spec(tmp_path)
