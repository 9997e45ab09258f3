"""A circuit of the small machine with a whitening of its own, and network and skip of it."""

import numpy as np

from app.model.graph import CHANNELS, build_topology
from app.model.network import build_model
from tests.small import small
from train.fitting.wide_and_deep import WideAndDeep
from train.linear.whitening import Circuit


def circuit(axes: int = 6) -> Circuit:
    """Return the circuit of pump and valve, which read P1, Q1 and P2; RUL has no labels."""
    made, generator = small(), np.random.default_rng(0)
    topology = build_topology(made.equipment, made.spec)
    inputs = 3 * made.equipment.steps * made.spec.features
    is_used_L = np.arange(inputs) % made.spec.features < made.spec.features - 1
    axes_LX, _ = np.linalg.qr(generator.normal(size=(inputs, axes)) * is_used_L[:, None])
    return Circuit(
        design=0,
        sensor_Q=np.arange(3),
        component_P=np.arange(2),
        slot_Q=topology.sensor_slot_S[:3],
        place_P=topology.component_slot_V[:2],
        steps=made.equipment.steps,
        is_labelled_PC=np.tile([True, True, False], (2, 1)),
        is_used_L=is_used_L,
        mean_L=(generator.normal(size=inputs) * is_used_L).astype(np.float32),
        axes_LX=axes_LX.astype(np.float32),
        gain_X=np.linspace(0.5, 2.0, axes, dtype=np.float32),
        rest=3.0,
        noise_A=np.array([0.1, 0.5], np.float32),
    )


def wide_and_deep(deep_share: float = 0.3) -> WideAndDeep:
    """Return network and skip of the small machine with random weights."""
    model = WideAndDeep(build_model(small().config), (circuit(),), deep_share)
    generator = np.random.default_rng(1)
    skip = model.circuits[0]
    for parameter in (skip.weight_LN, skip.bias_N):
        values = generator.normal(size=parameter.shape).astype(np.float32)
        parameter.data = parameter.new_tensor(values)
    assert skip.bias_N.shape == (2 * CHANNELS,)
    return model
