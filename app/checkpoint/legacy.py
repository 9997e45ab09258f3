"""Reads checkpoints of format 2, whose members were batched by hand, as those of today.

Nothing is retrained: names and the order of axes change, the numbers do not.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from app.model.ood_detector import NEVER_NEAREST

Arrays = dict[str, NDArray[np.generic]]

CONFIG_KEYS = {
    "opinion_steps": "linear_steps",
    "opinion_sensors": "linear_sensors",
    "opinion_weight": "linear_weight",
    "distance_axes": "ood_axes",
}
"""Keys of `model_config.json` under their former names."""
LINEARS = ("quantity.common", "component", "place", "attend", "summary", "trend")


def convert_config(data: Mapping[str, object]) -> dict[str, object]:
    """Return the content of `model_config.json` under today's keys."""
    return {CONFIG_KEYS.get(key, key): value for key, value in data.items()}


def convert_weights(old: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """Return the content of `weights.safetensors` under today's names.

    Args:
        old: of a checkpoint of format 2; members are the first axis of the network's tensors.
    """
    members = len(old["type_MCD"]) if "type_MCD" in old else 0
    new = {"temperature_G": old["grade.temperature_G"]} if members else {}
    for member in range(members):
        new |= {f"members.{member}.{name}": array for name, array in _member(old, member).items()}
    for name, array in old.items():
        prefix, _, table = name.partition(".")
        if prefix in ("opinion", "distance"):
            new[f"{'linear' if prefix == 'opinion' else 'ood'}.{table}"] = array
    # which grades occurred was once stated by the norms of their means
    centre_GQKX = new.pop("ood.centre_GQKX", None)
    if centre_GQKX is not None:
        new["ood.occurs_GK"] = np.any(np.asarray(centre_GQKX)[..., -1] < NEVER_NEAREST, axis=1)
    return {name: np.ascontiguousarray(array) for name, array in new.items()}


def _member(old: Mapping[str, NDArray[np.generic]], member: int) -> Arrays:
    new: Arrays = {
        "quantity.own_QFD": old["quantity.own_MQFD"][member],
        "quantity.embedding.weight": old["quantity.embedding_MQD"][member],
        "component_type.weight": old["type_MCD"][member],
        "grade.direction_GD": old["grade.direction_MGD"][member],
        "grade.first_G": old["grade.first_MG"][member],
        "grade.gap_GJ": old["grade.gap_MGJ"][member],
    }
    for name in LINEARS:
        new |= _linear(old, name, member)
    new |= _norm(old, "component_norm", member)
    for layer in range(_count(old, "attention.{}.attention_MHC")):
        name = f"attention.{layer}"
        for part in ("source", "target", "out"):
            new |= _linear(old, f"{name}.{part}", member)
        new[f"{name}.relation.weight"] = old[f"{name}.relation_MRD"][member]
        new[f"{name}.attention_D"] = old[f"{name}.attention_MHC"][member].reshape(-1)
        new |= _norm(old, f"attention_norm.{layer}", member)
    for layer in range(_count(old, "lstm.{}.recurrent_MDQ")):
        bias = _gates(old[f"lstm.{layer}.input.bias_MD"][member])
        new[f"lstm.weight_ih_l{layer}"] = _gates(old[f"lstm.{layer}.input.weight_MLD"][member]).T
        new[f"lstm.weight_hh_l{layer}"] = _gates(old[f"lstm.{layer}.recurrent_MDQ"][member]).T
        new[f"lstm.bias_ih_l{layer}"], new[f"lstm.bias_hh_l{layer}"] = bias, np.zeros_like(bias)
    return new


def _linear(old: Mapping[str, NDArray[np.generic]], name: str, member: int) -> Arrays:
    return {
        f"{name}.weight": old[f"{name}.weight_MLD"][member].T,
        f"{name}.bias": old[f"{name}.bias_MD"][member],
    }


def _norm(old: Mapping[str, NDArray[np.generic]], name: str, member: int) -> Arrays:
    return {
        f"{name}.weight": old[f"{name}.gain_M11D"][member, 0, 0],
        f"{name}.bias": old[f"{name}.bias_M11D"][member, 0, 0],
    }


def _gates(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Order the gates of the last axis as PyTorch does: (i, f, o, g) to (i, f, g, o)."""
    i, f, o, g = np.split(array, 4, axis=-1)
    return np.concatenate((i, f, g, o), axis=-1)


def _count(old: Mapping[str, NDArray[np.generic]], pattern: str) -> int:
    layers = 0
    while pattern.format(layers) in old:
        layers += 1
    return layers
