"""Formulas of oil, gas, resistances and the cooler.

Merritt, "Hydraulic Control Systems", 1967; Watton, "Fundamentals of Fluid Power Control", 2009;
Incropera and DeWitt, "Fundamentals of Heat and Mass Transfer", 2007.
"""

import math

from app.demo.simulation.compiled import compiled

ATMOSPHERE_PA = 101_325.0
EVAPORATING_PA = -0.8 * ATMOSPHERE_PA - 1.0
"""Gauge pressure just below which oil evaporates."""
CAVITY = 200.0
"""How many times as much as air a cavity of vapour gives way."""


@compiled
def kinematic_viscosity(temperature_degC: float, a: float, b: float) -> float:
    """Return m2/s by Walther's equation: lg lg(nu + 0.7) = A - B lg T, nu in mm2/s (ASTM D341)."""
    exponent = a - b * math.log10(temperature_degC + 273.15)
    return float((10.0 ** (10.0**exponent) - 0.7) * 1e-6)


@compiled
def growth(rigid: float, airy: float, before_pa: float, gauge_pa: float) -> tuple[float, float]:
    """Return how much more oil a volume takes at another pressure, m3, and its slope, m3/Pa.

    dV/dp = V (1/B + a p0 / p^2): air at constant temperature in parallel with the oil (Merritt
    1967, section 1-4), integrated. `rigid` is V/B and `airy` is V a p0, with a the volume fraction
    of free air at atmospheric pressure p0.
    """
    start, _ = _air(before_pa + ATMOSPHERE_PA)
    end, end_slope = _air(gauge_pa + ATMOSPHERE_PA)
    taken = rigid * (gauge_pa - before_pa) + airy * (end - start)
    return taken, rigid + airy * end_slope


@compiled
def _air(absolute: float) -> tuple[float, float]:
    """Return how much smaller air is than at no pressure, per its p0 V, and the slope.

    Below a fifth of the atmosphere oil evaporates: a cavity grows while the pressure hardly falls.
    """
    lowest = 0.2 * ATMOSPHERE_PA
    if absolute >= lowest:
        return -1.0 / absolute, 1.0 / (absolute * absolute)
    slope = CAVITY / (lowest * lowest)
    return -1.0 / lowest + (absolute - lowest) * slope, slope


@compiled
def stored_oil(
    gauge_pa: float, charge: float, volume: float, exponent: float
) -> tuple[float, float]:
    """Return the oil in an accumulator, 0 at its charge pressure, m3, and dV/dp, m3/Pa.

    p V^n of the gas is constant (Watton 2009, 3.9). Below its charge the bladder lies on the valve:
    the result is negative, its slope 1 % of that at charge.
    """
    absolute, absolute_charge = gauge_pa + ATMOSPHERE_PA, charge + ATMOSPHERE_PA
    if gauge_pa <= charge:
        slope = 0.01 * volume / (exponent * absolute_charge)
        return (gauge_pa - charge) * slope, slope
    gas = float(volume * (absolute_charge / absolute) ** (1.0 / exponent))
    return volume - gas, gas / (exponent * absolute)


def recharged(gauge_pa: float, before: float, charge: float) -> float:
    """Return the pressure of an accumulator after its charge has changed and its oil has not.

    The oil of `stored_oil` is the same at the same ratio of absolute pressure to charge. Without
    oil the pressure falls to the new charge if that is lower.

    Args:
        gauge_pa: pressure before.
        before: charge before, gauge, Pa.
        charge: charge after, gauge, Pa.
    """
    if gauge_pa <= before:
        return min(gauge_pa, charge)
    ratio = (charge + ATMOSPHERE_PA) / (before + ATMOSPHERE_PA)
    return (gauge_pa + ATMOSPHERE_PA) * ratio - ATMOSPHERE_PA


@compiled
def through(drop: float, linear: float, turbulent: float) -> tuple[float, float]:
    """Return the flow through a resistance and its slope.

    dp = linear q + turbulent q |q|: laminar at small, turbulent at large Reynolds numbers (Merritt
    1967, sections 3-3 and 3-4; Borutzky, Barnard and Thoma 2002), solved for q.
    """
    root = math.sqrt(linear * linear + 4.0 * turbulent * abs(drop))
    return 2.0 * drop / (linear + root), 1.0 / root


@compiled
def effectiveness(ua: float, hot: float, cold: float) -> float:
    """Return the effectiveness of a cross-flow cooler, both streams unmixed.

    e = 1 - exp(NTU^0.22 (exp(-r NTU^0.78) - 1) / r) (Incropera and DeWitt 2007, eq. 11.32).
    """
    least, most = min(hot, cold), max(hot, cold)
    if least <= 1e-6:
        return 0.0
    ntu, ratio = ua / least, least / most
    return 1.0 - math.exp(ntu**0.22 * (math.exp(-ratio * ntu**0.78) - 1.0) / ratio)
