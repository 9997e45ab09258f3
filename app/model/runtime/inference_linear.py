"""The second opinion as serving runs it, with its temperature, as probabilities.

Which alternative is heard is found on the host, where the masks come from: windows to which the same sensors are missing share
their weights, and where none is missing, what is heard is laid out once for the topology.
Further letters: `W` windows that share one topology; `N` = G x A x Q rows of the table of weights.
Invariant: the answer is that of `app.model.network.LinearClassifier` but for rounding, and nothing is read back from the device.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.features.binning import Floats
from app.model.graph import Integers
from app.model.network import LinearClassifier
from app.model.runtime.inference_layers import on_device

Booleans = NDArray[np.bool_]


class Asked(NamedTuple):
    """The second opinion for one topology of B graphs; arrays are on the host."""

    place_SG: Integers
    """-1 where the sensor is not read."""
    sensor_graph_S: Integers
    pool_BS: Floats
    """1 where a sensor is of a graph, else 0."""
    component_graph_V: Integers
    grade_set_V: Integers
    choice_BG: Integers
    """Alternatives heard in a window to which no sensor of the topology is missing."""
    weight_SLK: Tensor
    """Of the alternatives in `choice_BG`, of all sets: L = T x F inputs and G x K columns."""
    bias_V1K: Tensor
    """Of the same, NaN where there is no opinion."""
    device_sensor_graph_S: Tensor
    device_component_graph_V: Tensor
    device_set_V: Tensor


class Opinion:
    """`LinearClassifier` for answers only.

    Args:
        opinion: as it was fitted; later changes are not seen.
    """

    def __init__(self, opinion: LinearClassifier) -> None:
        self._shape = opinion.weight_GAQTFK.shape
        G, A, Q, T, F, K = self._shape
        self._device = opinion.bias_GAK.device
        weight_GAQTFK = opinion.weight_GAQTFK / opinion.temperature_G.view(G, 1, 1, 1, 1, 1)
        self._weight_NLK = weight_GAQTFK.view(G * A * Q, T * F, K)
        self._bias_GAK = opinion.bias_GAK / opinion.temperature_G[:, None, None]
        self._is_fitted_GA = torch.isfinite(opinion.bias_GAK).any(-1).cpu().numpy()
        self._place_GR: Integers = opinion.place_GR.cpu().numpy()

    def of(
        self,
        sensor_slot_S: Integers,
        sensor_graph_S: Integers,
        component_graph_V: Integers,
        grade_set_V: Integers,
        graphs: int,
    ) -> Asked | None:
        """Lay out the weights for a topology, None where nothing is read; a sensor without a reference says nothing."""
        if not self._shape[2]:
            return None
        place_SG = np.where(
            sensor_slot_S[:, None] >= 0, self._place_GR[:, sensor_slot_S.clip(0)].T, -1
        )
        pool_BS = (np.arange(graphs)[:, None] == sensor_graph_S).astype(np.float32)
        choice_1BG, is_said_1BG = self._chosen(
            np.ones((1, len(place_SG)), np.bool_), place_SG, pool_BS
        )
        return Asked(
            place_SG,
            sensor_graph_S,
            pool_BS,
            component_graph_V,
            grade_set_V,
            choice_1BG[0],
            self._weights(place_SG, choice_1BG[0][sensor_graph_S]),
            self._biases(choice_1BG, is_said_1BG, component_graph_V, grade_set_V),
            on_device(sensor_graph_S, self._device),
            on_device(component_graph_V, self._device),
            on_device(grade_set_V.clip(0), self._device),
        )

    def __call__(self, x_WSTF: Tensor, there_WS: Booleans, asked: Asked) -> Tensor:
        """Return each grade's probability, [W, V, K]; NaN where there is no opinion.

        Args:
            x_WSTF: features, on the device.
            there_WS: whether a sensor is there in all steps.
            asked: of the windows' topology.
        """
        (W, S, T, F), (B, _), (G, _, _, _, _, K) = x_WSTF.shape, asked.pool_BS.shape, self._shape
        x_SWL = x_WSTF.transpose(0, 1).reshape(S, W, T * F)
        if there_WS.all():
            told_SWL, bias_VWK = torch.bmm(x_SWL, asked.weight_SLK), asked.bias_V1K
        else:
            told_SWL, bias_VWK = self._told_in_part(x_SWL, there_WS, asked)
        total_BWL = told_SWL.new_zeros(B, W, G * K).index_add_(
            0, asked.device_sensor_graph_S, told_SWL
        )
        logit_VWK = total_BWL.view(B, W, G, K)[
            asked.device_component_graph_V, :, asked.device_set_V
        ]
        return torch.softmax(logit_VWK + bias_VWK, -1).transpose(0, 1)

    def _told_in_part(
        self, x_SWL: Tensor, there_WS: Booleans, asked: Asked
    ) -> tuple[Tensor, Tensor]:
        """Return what each sensor tells, [S, W, G x K], and the bias, [V, W, K], of windows to which sensors are missing."""
        choice_WBG, is_said_WBG = self._chosen(there_WS, asked.place_SG, asked.pool_BS)
        S, W, _ = x_SWL.shape
        told_SWL = x_SWL.new_empty(S, W, asked.weight_SLK.shape[2])
        for window_P, choice_BG in _patterns(choice_WBG):
            if (choice_BG == asked.choice_BG).all():
                weight_SLK = asked.weight_SLK
            else:
                weight_SLK = self._weights(asked.place_SG, choice_BG[asked.sensor_graph_S])
            if len(window_P) == W:
                torch.bmm(x_SWL, weight_SLK, out=told_SWL)
            else:
                chosen_P = on_device(window_P, self._device)
                told_SWL.index_copy_(
                    1, chosen_P, torch.bmm(x_SWL.index_select(1, chosen_P), weight_SLK)
                )
        told_SWL.mul_(on_device(there_WS.T.astype(np.float32), self._device)[..., None])
        return told_SWL, self._biases(
            choice_WBG, is_said_WBG, asked.component_graph_V, asked.grade_set_V
        )

    def _biases(
        self,
        choice_WBG: Integers,
        is_said_WBG: Booleans,
        component_graph_V: Integers,
        grade_set_V: Integers,
    ) -> Tensor:
        """Return the bias of the alternative that each component hears, [V, W, K], NaN where there is no opinion."""
        set_V = grade_set_V.clip(0)
        choice_VW = on_device(choice_WBG[:, component_graph_V, set_V].T, self._device)
        is_silent_VW = on_device(
            (~is_said_WBG[:, component_graph_V, set_V] | (grade_set_V < 0)).T, self._device
        )
        bias_VWK = self._bias_GAK[on_device(set_V, self._device)[:, None], choice_VW]
        return bias_VWK.masked_fill(is_silent_VW[..., None], torch.nan)

    def _chosen(
        self, there_WS: Booleans, place_SG: Integers, pool_BS: Floats
    ) -> tuple[Integers, Booleans]:
        """Return which alternative fits what is there, and whether there is one, [W, B, G]."""
        G, A = self._shape[:2]
        is_read_GR = self._place_GR >= 0
        heard_WSG = there_WS[..., None] & (place_SG >= 0)
        # sums of small whole numbers: exact in float32
        lacking_WBG = is_read_GR.sum(1) - np.matmul(pool_BS, heard_WSG.astype(np.float32))
        place_WBG = np.matmul(pool_BS, (heard_WSG * place_SG).astype(np.float32))
        without_WBG = 1 + (self._place_GR * is_read_GR).sum(1) - place_WBG
        choice_WBG = np.where((lacking_WBG == 1) & (without_WBG < A), without_WBG, 0.0).astype(
            np.int64
        )
        is_kept_WBG = (lacking_WBG == 0) | (lacking_WBG == 1) & (choice_WBG > 0)
        return choice_WBG, is_kept_WBG & self._is_fitted_GA[np.arange(G), choice_WBG]

    def _weights(self, place_SG: Integers, choice_SG: Integers) -> Tensor:
        """Return the weights of the alternatives chosen for each sensor's graph, [S, T * F, G * K]; 0 where it is not read."""
        (S, G), (_, A, Q, T, F, K) = place_SG.shape, self._shape
        row_SG = (np.arange(G) * A + choice_SG) * Q + place_SG.clip(0)
        weight_SGLK = self._weight_NLK.index_select(
            0, on_device(row_SG.reshape(-1), self._device)
        ).view(S, G, T * F, K)
        is_read_SG11 = on_device((place_SG >= 0).astype(np.float32), self._device)[..., None, None]
        return (weight_SGLK * is_read_SG11).transpose(1, 2).reshape(S, T * F, G * K)


def _patterns(choice_WBG: Integers) -> list[tuple[Integers, Integers]]:
    """Return windows that choose alike, with what they choose."""
    if not choice_WBG.any():
        return [(np.arange(len(choice_WBG)), choice_WBG[0])] if len(choice_WBG) else []
    numbers: dict[bytes, list[int]] = {}
    for number, choice_BG in enumerate(choice_WBG):
        numbers.setdefault(choice_BG.tobytes(), []).append(number)
    return [(np.array(alike, np.int64), choice_WBG[alike[0]]) for alike in numbers.values()]
