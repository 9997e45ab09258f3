"""The module in training: the network beside the linear skip on whitened features.

Of every component it returns the latent channels of both branches, which share thresholds and
heads. Together they are `share * deep + (1 - share) * wide`, so that each branch alone predicts
too: the network alone serves designs without skip weights and windows without enough of a circuit's
sensors, and a report shows what each adds. After training the whitening and 1 - share are folded
into weights on plain features (`fold`). Shape letters as in `train.linear.whitening`; further `B`
windows of a design in a batch, `V` components of all graphs of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from app.model.graph import CHANNELS
from app.model.network import DeepOutput, Ensemble, GraphTensors
from app.model.skip import CircuitTables, LinearSkip
from train.linear.whitening import Circuit


class CircuitInput(NamedTuple):
    """What the skip reads of the windows of a batch: a circuit's complete inputs.

    `is_known_B` is false for a window with too few of them, which gets no skip.
    """

    circuit: int
    x_BL: Tensor
    is_known_B: Tensor


class WideInput(NamedTuple):
    """Inputs of all circuits of the windows of one design, with the components of a window."""

    windows: int
    components: int
    circuits: tuple[CircuitInput, ...]


class Branches(NamedTuple):
    """Both branches of a batch of graphs, without the axis W.

    Args:
        deep: of all members, [M, V].
        wide_VC: latent channels of the skip alone; 0 where there is none.
        share_VC: share of the network beside it; 1 where there is no skip.
    """

    deep: DeepOutput
    wide_VC: Tensor
    share_VC: Tensor

    @property
    def latent_MVC(self) -> Tensor:
        """Return the latent channels of both branches together."""
        return self.share_VC * self.deep.latent_VWC + (1.0 - self.share_VC) * self.wide_VC

    def float(self) -> "Branches":
        """Return both branches in float32."""
        deep = DeepOutput(*(tensor.float() for tensor in self.deep))
        return Branches(deep, self.wide_VC.float(), self.share_VC.float())

    def split(self, sizes: list[int]) -> list["Branches"]:
        """Return the branches of consecutive graphs, by their numbers of components."""
        of_part = zip(*(torch.split(tensor, sizes, dim=1) for tensor in self.deep), strict=True)
        wides, shares = (torch.split(each, sizes) for each in (self.wide_VC, self.share_VC))
        return [
            Branches(DeepOutput(*deep), wide_VC, share_VC)
            for deep, wide_VC, share_VC in zip(of_part, wides, shares, strict=True)
        ]


class CircuitSkip(nn.Module):
    """Trains the skip of one circuit on whitened features.

    Args:
        circuit: its whitening.
        noise: standard deviation of the noise on whitened features in training.
    """

    def __init__(self, circuit: Circuit, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        L, P = len(circuit.mean_L), len(circuit.component_P)
        self.rest = circuit.rest
        first = circuit.first
        weight_LN, bias_N = torch.zeros(L, P * CHANNELS), torch.zeros(P * CHANNELS)
        if first is not None:
            # axes are of unit length: whitening this matrix gives the weights on whitened features
            weight_LN = torch.tensor(circuit.axes_LX) @ torch.tensor(first.weight_XPC).flatten(1)
            bias_N = torch.tensor(first.bias_PC).flatten()
        self.weight_LN = nn.Parameter(weight_LN, requires_grad=first is None)
        self.bias_N = nn.Parameter(bias_N, requires_grad=first is None)
        arrays = {
            "mean_L": circuit.mean_L,
            "axes_LX": circuit.axes_LX,
            "gain_X1": circuit.gain_X[:, None] - np.float32(circuit.rest),
            "is_used_L1": circuit.is_used_L[:, None].astype(np.float32),
            "is_labelled_PC": circuit.is_labelled_PC.astype(np.float32),
            "component_P": circuit.component_P,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(array), persistent=False)
        self.mean_L: Tensor
        self.axes_LX: Tensor
        self.gain_X1: Tensor
        self.is_used_L1: Tensor
        self.is_labelled_PC: Tensor
        self.component_P: Tensor

    def folded_LN(self) -> Tensor:
        """Return the weights on plain features: whitening a weight costs less than a batch."""
        whitened_LN = self.rest * self.weight_LN + self.axes_LX @ (
            self.gain_X1 * (self.axes_LX.T @ self.weight_LN)
        )
        return whitened_LN * self.is_used_L1

    def forward(self, x_BL: Tensor) -> Tensor:
        """Return the latent channels of the circuit's components, [B, P, C]."""
        sum_BN = (x_BL - self.mean_L) @ self.folded_LN() + self.bias_N
        if self.training and self.noise and self.weight_LN.requires_grad:
            sum_BN = sum_BN + self.noise * torch.randn_like(x_BL) @ self.weight_LN
        return sum_BN.view(len(x_BL), -1, CHANNELS) * self.is_labelled_PC


class WideAndDeep(nn.Module):
    """Network and skip, trained as one.

    Args:
        ensemble: the network.
        circuits: of the skip; none for the network alone.
        deep_share: share of the network where there is a skip.
        noise: see `CircuitSkip`.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        circuits: Sequence[Circuit],
        deep_share: float,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.skips = nn.ModuleList(CircuitSkip(circuit, noise) for circuit in circuits)
        self.deep_share = deep_share

    @property
    def circuits(self) -> tuple[CircuitSkip, ...]:
        """Return the skips of all circuits."""
        return tuple(cast("CircuitSkip", each) for each in self.skips)

    def forward(self, graph: GraphTensors, inputs: Sequence[WideInput]) -> Branches:
        """Return both branches of a batch of graphs.

        Args:
            graph: the one window of the disjoint union of all graphs.
            inputs: of the skip, of each design in the order of its graphs.
        """
        deep = self.ensemble(graph).of_batch()
        # terms of the skip cancel: it needs float32 also where the network does not
        with torch.autocast(deep.rate_VW.device.type, enabled=False):
            wides, shares = zip(*(self._wide(each, deep.rate_VW) for each in inputs), strict=True)
        wide_VC = torch.cat(wides)
        if len(self.skips) > sum(len(each.circuits) for each in inputs):
            # distributed training needs every weight in the graph of every loss
            for skip in self.circuits:
                wide_VC = wide_VC + 0.0 * (skip.weight_LN.sum() + skip.bias_N.sum())
        return Branches(deep, wide_VC, torch.cat(shares))

    def _wide(self, given: WideInput, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the skip's latent channels of a design's windows and the network's share."""
        shape = (given.windows, given.components, CHANNELS)
        wide_BVC = torch.zeros(shape, device=like.device)
        wide_share_BVC = torch.zeros_like(wide_BVC)
        for each in given.circuits:
            skip = self.circuits[each.circuit]
            known_B11 = each.is_known_B.to(torch.float32)[:, None, None]
            wide_BPC = skip(each.x_BL) * known_B11
            wide_BVC = wide_BVC.index_add(1, skip.component_P, wide_BPC)
            known_BPC = known_B11 * skip.is_labelled_PC
            wide_share_BVC = wide_share_BVC.index_add(1, skip.component_P, known_BPC)
        share_BVC = 1.0 - (1.0 - self.deep_share) * wide_share_BVC
        return wide_BVC.flatten(0, 1), share_BVC.flatten(0, 1)


def fold(model: WideAndDeep, circuits: Sequence[Circuit]) -> LinearSkip | None:
    """Return the skip as it serves: weights on plain features; None without one.

    Args:
        model: after training.
        circuits: as the model was made with.
    """
    config, found = model.ensemble.config, []
    for circuit, module in zip(circuits, model.circuits, strict=True):
        shape = len(circuit.mean_L), *circuit.is_labelled_PC.shape
        wide_PC = (1.0 - model.deep_share) * circuit.is_labelled_PC
        with torch.inference_mode():
            weight_LPC = module.folded_LN().cpu().numpy().reshape(shape) * wide_PC
            bias_PC = module.bias_N.cpu().numpy().reshape(shape[1:]) * wide_PC
        found.append(
            CircuitTables(
                circuit.slot_Q,
                circuit.place_P,
                weight_LPC.astype(np.float32),
                bias_PC.astype(np.float32),
                (1.0 - wide_PC).astype(np.float32),
                circuit.mean_L,
                circuit.axes_LX[:, : len(circuit.noise_A)],
                circuit.noise_A,
            )
        )
    return LinearSkip(found, config) if found else None
