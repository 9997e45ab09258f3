"""Which evidence can reach a component along the topology's connections: what the network's messages can bring it.

Invariant: a component's own sensors are always in its reach.
"""

from app.schemas.equipment import Equipment


def reach(equipment: Equipment, target: int) -> set[int]:
    """Return the components whose messages can reach a component, itself included."""
    feeds: set[tuple[int, int]] = set()
    for connection in equipment.connections:
        ends = equipment.component_index(connection.source), equipment.component_index(connection.target)
        if connection.evidence != "none":
            feeds.add(ends)
        if connection.evidence == "both":
            feeds.add(ends[::-1])
    found = {target}
    while grown := {source for source, end in feeds if end in found} - found:
        found |= grown
    return found


def sensors_in_reach(equipment: Equipment, target: int) -> list[int]:
    """Return the positions of the sensors whose evidence can reach a component, in the order of `Equipment.sensors`."""
    owners = reach(equipment, target)
    return [position for position, placed in enumerate(equipment.sensors) if placed.component_index in owners]
