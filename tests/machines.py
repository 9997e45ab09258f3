"""Small machines for tests."""

from app.schemas.equipment import Component, Equipment, Sensor


def make_machine(
    equipment_id: str = "press-1",
    sensors: tuple[str, ...] = ("PS1", "PS2", "TS1"),
    grid_s: float = 1.0,
) -> Equipment:
    """Return a machine of one pump with these sensors and windows of 60 bins."""
    return Equipment(
        equipment_id=equipment_id,
        design="press",
        grid_s=grid_s,
        window_s=60 * grid_s,
        steps=12,
        components=(
            Component(
                component_id="pump",
                type="pump",
                sensors=tuple(
                    Sensor(sensor_id=sensor_id, quantity="pressure", unit="bar", range=(0.0, 300.0))
                    for sensor_id in sensors
                ),
            ),
        ),
    )
