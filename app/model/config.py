"""Sizes of a model, saved beside its weights as `model_config.json`; read without torch."""

from dataclasses import dataclass
from typing import NamedTuple

MODEL_TYPE = "universal_temporal_gnn"
TABLES = ("skip.", "ood.")
"""How the names of a checkpoint's arrays begin that are not the network's."""


class CircuitSize(NamedTuple):
    """Sizes of the linear skip of one circuit, see `app.model.skip.CircuitTables`."""

    sensors: int
    """Q: that it reads."""
    steps: int
    """T of the windows that it reads."""
    components: int
    """P: with weights."""
    axes: int
    """A: axes of the model that imputes missing inputs."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything needed to build a model; see `app.model.network.build_model`."""

    features: int
    """F: features of a sensor at a step, coverage included."""
    quantities: int
    """Rows of the embedding of quantities."""
    component_types: int
    """Rows of the embedding of component types."""
    relations: int
    """Rows of the embedding of edge relations: two for a medium, along and against the line."""
    grade_sets: tuple[tuple[float, ...], ...]
    """Health of each grade, best first, of each grade set in the order of the feature spec."""
    hidden: int = 32
    """D: width of a component's state."""
    heads: int = 4
    """H: attention heads; divides `hidden`."""
    attention_layers: int = 2
    """Rounds of message passing at every step: how many connections evidence can travel."""
    lstm_layers: int = 1
    """Layers of the recurrent network over the steps."""
    dropout: float = 0.1
    """Share of a state's entries that is dropped in training."""
    members: int = 1
    """M: independent networks whose outputs are averaged."""
    references: int = 0
    """R: sensors with a reference in the feature spec."""
    circuits: tuple[CircuitSize, ...] = ()
    """Sizes of each circuit of the linear skip; empty for the network alone."""
    ood_steps: int = 0
    """T of the windows that the OOD detector reads; 0 for no detector."""
    ood_sensors: int = 0
    """Q: the most sensors that the OOD detector of a grade set reads."""
    ood_axes: int = 0
    """Principal axes of the OOD detector; 0 for no detector."""
    rate_unit: float = 1.0
    """Health lost per 1000 operating hours that an output of 1 of the rate head means."""
    rul_unit_h: float = 1.0
    """Operating hours that an output of 1 of the RUL head means."""
    model_type: str = MODEL_TYPE
    """Architecture of the members."""

    @property
    def sets(self) -> int:
        """Return G, at least 1."""
        return max(len(self.grade_sets), 1)

    @property
    def grades(self) -> int:
        """Return K, at least 2."""
        return max((len(healths) for healths in self.grade_sets), default=2)
