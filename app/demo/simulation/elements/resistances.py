"""Throttles, filters, coolers and accumulators."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.demo.simulation.circuit import Builder
from app.demo.simulation.elements.base import BAR, L_MIN, NOMINAL_VISCOSITY, Element
from app.demo.simulation.layout import Opens


class Resistance(Element):
    """A throttle, line or check valve: a pressure drop at a nominal flow."""

    inlet: str
    outlet: str
    flow_l_min: float
    drop_bar: float
    laminar_share: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield inlet and outlet."""
        yield self.inlet, "in"
        yield self.outlet, "out"

    def resistance(self, drop_bar: float | None = None) -> dict[str, float]:
        """Return the branch's laminar and turbulent parts at nominal viscosity."""
        q = self.flow_l_min * L_MIN
        drop = (self.drop_bar if drop_bar is None else drop_bar) * BAR
        return {
            "laminar": self.laminar_share * drop / (q * NOMINAL_VISCOSITY),
            "turbulent": (1 - self.laminar_share) * drop / q**2,
        }

    def build(self, to: Builder) -> None:
        """Add one branch."""
        self._branch(to, self.inlet, self.outlet, {}, **self.resistance())


class ThrottleElement(Resistance):
    """A fixed throttle, or a line."""

    kind: Literal["throttle"]
    type: ClassVar[str] = "line"


class FilterElement(Resistance):
    """A filter with a bypass valve; its resistance grows steeply towards the end of its life.

    Clogging as in ISO 3968 and ISO 16889: the drop rises slowly, then with a high power of the
    retained dirt.
    """

    kind: Literal["filter"]
    type: ClassVar[str] = "filter"
    laminar_share: Annotated[float, Field(gt=0, lt=1)] = 0.6
    bypass_bar: float = 3.5
    effects: ClassVar = {
        "clogging": (
            ("branch", "laminar", 5.0, 0.0, 1.6),
            ("branch", "turbulent", 5.0, 0.0, 1.6),
            ("system", "dirt", 0.0, 1.0, 1.0),
        )
    }

    def build(self, to: Builder) -> None:
        """Add element and bypass; clogging leaves the bypass as it is."""
        super().build(to)
        self._branch(
            to, self.inlet, self.outlet, {"opens": Opens.relief},
            **self.resistance(1.0), setting=self.bypass_bar * BAR, band=1.0 * BAR,
        )  # fmt: skip

    def _elements(self, to: Builder, group: str) -> list[int]:
        return super()._elements(to, group)[:1]


class CoolerElement(Resistance):
    """A cooler with a thermostat, by effectiveness and NTU."""

    kind: Literal["cooler"]
    type: ClassVar[str] = "cooler"
    ua_W_K: float
    cold_W_K: float
    """Heat capacity flow of the cooling stream at full fan or open valve."""
    cold_offset_K: float = 0.0
    from_degC: float
    to_degC: float
    effects: ClassVar = {
        "fouling": (
            ("system", "cooler_ua", -0.88, 0.0, 0.8),
            ("branch", "laminar", 0.5, 0.0, 1.0),
        )
    }

    def build(self, to: Builder) -> None:
        """Add the cooler's branch and mark it."""
        super().build(to)
        to.cooler_branch = to.own("branch", self.component_id)


class AccumulatorElement(Element):
    """A bladder accumulator behind its poppet."""

    kind: Literal["accumulator"]
    type: ClassVar[str] = "accumulator"
    at: str
    volume_l: float
    charge_bar: float
    filled_bar: float | None = None
    """Pressure before the machine starts; default 1.2 times the charge."""
    exponent: float = 1.25
    flow_l_min: float = 100.0
    drop_bar: float = 2.0
    effects: ClassVar = {
        "gas_loss": (("node", "gas_pressure", -0.8, 0.0, 0.8), ("node", "filled", -0.8, 0.0, 0.8))
    }
    """The pressure before the start falls with the charge: the oil stays."""

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield the line that it supports."""
        yield self.at, "both"

    def build(self, to: Builder) -> None:
        """Add the node of the gas and the poppet."""
        gas = f"{self.component_id}.gas"
        to.node(
            gas, 0.02e-3 * self.volume_l,
            gas_pressure=self.charge_bar * BAR, gas_volume=self.volume_l * 1e-3,
            gas_exponent=self.exponent,
            filled=(self.filled_bar or 1.2 * self.charge_bar) * BAR,
        )  # fmt: skip
        q = self.flow_l_min * L_MIN
        self._branch(
            to, self.at, gas, {},
            laminar=0.2 * self.drop_bar * BAR / (q * NOMINAL_VISCOSITY),
            turbulent=0.8 * self.drop_bar * BAR / q**2,
        )  # fmt: skip

    def _elements(self, to: Builder, group: str) -> list[int]:
        if group == "node":
            return [to.nodes[f"{self.component_id}.gas"]]
        return super()._elements(to, group)
