"""The union of all kinds, distinguished by `kind`."""

from typing import Annotated

from pydantic import Field

from app.demo.simulation.elements.actuators import CylinderElement, MotorElement
from app.demo.simulation.elements.base import TankElement
from app.demo.simulation.elements.resistances import (
    AccumulatorElement,
    CoolerElement,
    FilterElement,
    ThrottleElement,
)
from app.demo.simulation.elements.sources import DriveElement, PumpElement
from app.demo.simulation.elements.valves import ReducingElement, ReliefElement, ValveElement

AnyElement = Annotated[
    DriveElement
    | PumpElement
    | ThrottleElement
    | FilterElement
    | CoolerElement
    | ReliefElement
    | ReducingElement
    | ValveElement
    | CylinderElement
    | MotorElement
    | AccumulatorElement
    | TankElement,
    Field(discriminator="kind"),
]
