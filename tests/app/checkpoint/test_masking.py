"""The masking stated in checkpoints agrees with what the augmentation masks."""

import json
from pathlib import Path

import pytest

from app.checkpoint import manifest as files
from app.checkpoint.manifest import read_manifest, sha256_of
from app.checkpoint.masking import SHOWN_SHARE, Masking, least_evidence
from app.core.errors import CheckpointError
from tests.masking import unmasked_steps
from tests.network import small_checkpoint
from train.config import TrainConfig

SHIPPED = Path(files.__file__).parents[1] / "weights"
CONFIG = TrainConfig(design="press")
OFF = {"augmented_share": 0.0, "gap_share": 0.0, "mixup": 0.0}


@pytest.mark.parametrize("sensors", [2, 3, 4, 5, 7, 10, 17])
def test_least_evidence_is_what_a_thousandth_of_the_training_windows_show(sensors: int) -> None:
    evidence_W = unmasked_steps(CONFIG, sensors).mean(-1).sum(-1)
    least = least_evidence(CONFIG.masking, sensors)
    assert (evidence_W <= least.of_some + 1e-9).mean() >= 0.7 * SHOWN_SHARE
    whole_W = unmasked_steps(CONFIG.model_copy(update={"gap_share": 0.0}), sensors).mean(-1).sum(-1)
    assert (whole_W <= least.of_some - 1.0).mean() < 1.4 * SHOWN_SHARE


def test_least_evidence_of_one_sensor_is_what_a_gap_leaves() -> None:
    assert least_evidence(CONFIG.masking, 1) == (0.0, 0.5)
    evidence_W = (
        unmasked_steps(CONFIG.model_copy(update={"sensor_dropout": 0.0}), 1).mean(-1).sum(-1)
    )
    assert evidence_W.min() <= 0.5


def test_least_history_is_what_the_deepest_cut_leaves() -> None:
    config = CONFIG.model_copy(update=OFF | {"history_cut": 0.5})
    least = float(unmasked_steps(config, 3).mean(-1).min())
    assert config.masking.least_history == pytest.approx(least) == pytest.approx(1 / 12)
    assert CONFIG.masking.least_history == 1.0


@pytest.mark.parametrize("sensors", [1, 2, 7])
def test_training_that_masks_nothing_needs_everything(sensors: int) -> None:
    masking = CONFIG.model_copy(update=OFF).masking
    assert least_evidence(masking, sensors) == (sensors, sensors)
    assert least_evidence(Masking(), sensors) == (sensors, sensors)


def test_least_evidence_by_hand() -> None:
    masking = Masking(augmented_share=1.0, sensor_dropout=0.1)
    # 3 of 3 with 1/1000, and rounding on its side; 4 of 4 with 1/10,000, 3 of 4 with 3.7/1000
    assert least_evidence(masking, 2) == (0.0, 1.0)
    assert least_evidence(masking, 4) == (1.0, 1.0)
    assert least_evidence(masking.model_copy(update={"augmented_share": 0.1}), 4) == (2.0, 2.0)


def test_all_that_is_read_is_never_nothing() -> None:
    certain = Masking(augmented_share=1.0, sensor_dropout=1.0, gap_share=1.0)
    for sensors in range(40):
        of_some, of_all = least_evidence(certain, sensors)
        assert (of_some, of_all > 0.0) == (0.0, True)


@pytest.mark.parametrize("version", ["1", "2"])
def test_shipped_checkpoints_state_what_their_training_masked(version: str) -> None:
    masking = read_manifest(SHIPPED / version).masking
    assert masking == TrainConfig(design="hydraulic-rig").masking
    assert (masking.attention_layers, masking.sensor_dropout, masking.mixup) == (2, 0.05, 0.0)


def state(directory: Path, text: str | None) -> None:
    """Give a checkpoint another `train_config.json`, or None, and state it in the manifest."""
    manifest = json.loads((directory / files.MANIFEST).read_text())
    del manifest["sha256"][files.TRAIN_CONFIG]
    if text is not None:
        (directory / files.TRAIN_CONFIG).write_text(text)
        manifest["sha256"][files.TRAIN_CONFIG] = sha256_of(directory / files.TRAIN_CONFIG)
    (directory / files.MANIFEST).write_text(json.dumps(manifest))


def test_checkpoint_without_settings_of_its_training_masked_nothing(tmp_path: Path) -> None:
    directory = small_checkpoint(tmp_path, "7")
    stated = read_manifest(directory).masking
    assert stated == CONFIG.masking.model_copy(update={"attention_layers": 1})
    assert "masking" not in (directory / files.MANIFEST).read_text()
    state(directory, None)
    assert read_manifest(directory).masking == Masking(attention_layers=1)


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"sensor_dropout": "often"}'])
def test_settings_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    directory = small_checkpoint(tmp_path, "7")
    state(directory, text)
    with pytest.raises(CheckpointError, match="expected settings of a training in train_config"):
        read_manifest(directory)


def test_settings_are_those_of_the_training() -> None:
    assert set(Masking.model_fields) <= set(TrainConfig.model_fields)
