"""Formulas of oil and gas."""

import pytest

from app.demo.simulation.physics import ATMOSPHERE_PA, recharged, stored_oil

CHARGE, VOLUME, EXPONENT = 60e5, 5e-3, 1.25


def test_accumulator_stores_what_the_polytropic_law_says():
    taken, slope = stored_oil(120e5, CHARGE, VOLUME, EXPONENT)
    gas = VOLUME * ((CHARGE + ATMOSPHERE_PA) / (120e5 + ATMOSPHERE_PA)) ** 0.8
    assert taken == pytest.approx(VOLUME - gas, rel=1e-12)
    # 5 l at 61.01 bar are 2.89 l at 121.01 bar
    assert taken == pytest.approx(2.11e-3, abs=0.01e-3)
    more, _ = stored_oil(120.1e5, CHARGE, VOLUME, EXPONENT)
    assert slope == pytest.approx((more - taken) / 0.1e5, rel=1e-2)


def test_stored_oil_is_zero_at_charge_and_little_below_it():
    assert stored_oil(CHARGE, CHARGE, VOLUME, EXPONENT)[0] == 0.0
    above, slope = stored_oil(CHARGE + 1.0, CHARGE, VOLUME, EXPONENT)
    assert above == pytest.approx(slope, rel=1e-3)
    below, gentle = stored_oil(CHARGE - 10e5, CHARGE, VOLUME, EXPONENT)
    assert gentle == pytest.approx(0.01 * slope, rel=1e-3)
    assert below == pytest.approx(-10e5 * gentle)


def test_the_oil_of_an_accumulator_stays_when_its_charge_changes():
    oil, _ = stored_oil(120e5, CHARGE, VOLUME, EXPONENT)
    for charge in (0.2 * CHARGE, 1.1 * CHARGE):
        pressure = recharged(120e5, CHARGE, charge)
        assert stored_oil(pressure, charge, VOLUME, EXPONENT)[0] == pytest.approx(oil)


def test_an_empty_accumulator_takes_its_new_charge_if_that_is_lower():
    assert recharged(30e5, CHARGE, 0.2 * CHARGE) == 0.2 * CHARGE
    assert recharged(30e5, CHARGE, 1.1 * CHARGE) == 30e5
