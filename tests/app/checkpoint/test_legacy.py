"""Checkpoints of format 2 against those of today."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from app.checkpoint import manifest as files
from app.checkpoint import torch_model
from app.checkpoint.convert import convert
from app.checkpoint.files import load
from app.checkpoint.legacy import CONFIG_KEYS, LINEARS, convert_weights
from app.checkpoint.predictor import open_predictor
from app.checkpoint.torch_model import load_model
from app.model.runtime.gate import warm_up_group
from tests.app.checkpoint.test_files import restate, write
from tests.graphs import assert_close, predict
from tests.small import Small, small

Arrays = dict[str, NDArray[np.generic]]


def former(new: Arrays) -> Arrays:
    """Return weights of today as a checkpoint of format 2 had them."""
    members = [
        {
            name.removeprefix(f"members.{number}."): array
            for name, array in new.items()
            if name.startswith(f"members.{number}.")
        }
        for number in range(len({name.split(".")[1] for name in new if name.startswith("members")}))
    ]

    def joined(name: str) -> NDArray[np.generic]:
        return np.stack([member[name] for member in members])

    def gates(array: NDArray[np.generic]) -> NDArray[np.generic]:
        i, f, g, o = np.split(array, 4, axis=-1)
        return np.concatenate((i, f, o, g), axis=-1)

    old: Arrays = {
        "grade.temperature_G": new["temperature_G"],
        "quantity.own_MQFD": joined("quantity.own_QFD"),
        "quantity.embedding_MQD": joined("quantity.embedding.weight"),
        "type_MCD": joined("component_type.weight"),
        "grade.direction_MGD": joined("grade.direction_GD"),
        "grade.first_MG": joined("grade.first_G"),
        "grade.gap_MGJ": joined("grade.gap_GJ"),
        "lstm.0.input.weight_MLD": gates(joined("lstm.weight_ih_l0").swapaxes(1, 2)),
        "lstm.0.recurrent_MDQ": gates(joined("lstm.weight_hh_l0").swapaxes(1, 2)),
        "lstm.0.input.bias_MD": gates(joined("lstm.bias_ih_l0")),
    }
    linears = list(LINEARS)
    norms = ["component_norm"]
    for layer in range(2):
        linears += [f"attention.{layer}.{part}" for part in ("source", "target", "out")]
        norms.append(f"attention_norm.{layer}")
        old[f"attention.{layer}.relation_MRD"] = joined(f"attention.{layer}.relation.weight")
        attention_MD = joined(f"attention.{layer}.attention_D")
        old[f"attention.{layer}.attention_MHC"] = attention_MD.reshape(len(members), 2, -1)
    for name in linears:
        old[f"{name}.weight_MLD"] = joined(f"{name}.weight").swapaxes(1, 2)
        old[f"{name}.bias_MD"] = joined(f"{name}.bias")
    for name in norms:
        old[f"{name}.gain_M11D"] = joined(f"{name}.weight")[:, None, None]
        old[f"{name}.bias_M11D"] = joined(f"{name}.bias")[:, None, None]
    for name, array in new.items():
        prefix, _, table = name.partition(".")
        if prefix in ("linear", "ood"):
            old[f"{ {'linear': 'opinion', 'ood': 'distance'}[prefix] }.{table}"] = array
    return {name: np.ascontiguousarray(array) for name, array in old.items()}


def test_weights_come_back_from_their_former_names() -> None:
    new = small().model.arrays()
    found = convert_weights(former(new))
    assert found.keys() == new.keys()
    for name, array in new.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_grades_that_occurred_were_once_stated_by_norms() -> None:
    old = former(small().model.arrays())
    occurs_GK = old.pop("distance.occurs_GK").copy()
    occurs_GK[0, 1:] = True
    centre_GQKX = np.zeros((len(occurs_GK), 2, occurs_GK.shape[1], 3), np.float32)
    centre_GQKX[..., -1] = np.where(occurs_GK, 2.0, 1e30)[:, None]
    found = convert_weights({**old, "distance.centre_GQKX": centre_GQKX})
    np.testing.assert_array_equal(found["ood.occurs_GK"], occurs_GK)


def format_2(directory: Path, made: Small) -> Path:
    """Write a checkpoint as a training of earlier versions did."""
    write(directory, made)
    save_file(former(made.model.arrays()), directory / files.WEIGHTS)
    renamed = {new: old for old, new in CONFIG_KEYS.items()}
    config = {renamed.get(key, key): value for key, value in asdict(made.config).items()}
    del config["model_type"]
    (directory / files.MODEL_CONFIG).write_text(json.dumps(config))
    manifest = json.loads((directory / files.MANIFEST).read_text())
    (directory / files.MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    for name in (files.WEIGHTS, files.MODEL_CONFIG):
        restate(directory, name)
    return directory


def test_checkpoint_of_format_2_is_loaded_and_served_by_the_module(tmp_path: Path) -> None:
    made = small()
    checkpoint = load(format_2(tmp_path / "7", made))
    assert checkpoint.config == made.config
    group = warm_up_group(made.config, 3)
    assert_close(predict(load_model(checkpoint), group), predict(made.model, group))
    opened = open_predictor(checkpoint)
    assert opened.predictor.name == "torch float32 cpu"
    assert_close(opened.predictor.predict([group])[0], predict(made.model, group))


def test_converted_checkpoint_predicts_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_model, "network_files", lambda model: {})  # an export takes long
    made = small()
    old = format_2(tmp_path / "7", made)
    convert(old, tmp_path / "new")
    checkpoint = load(tmp_path / "new")
    assert checkpoint.manifest.format == 3
    assert checkpoint.manifest.command == load(old).manifest.command
    assert (tmp_path / "new" / files.REPORT).read_text() == (old / files.REPORT).read_text()
    group = warm_up_group(made.config, 3)
    assert_close(predict(load_model(checkpoint), group), predict(made.model, group))
