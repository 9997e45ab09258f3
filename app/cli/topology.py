"""Drawings of a machine's topology: in a terminal, as Mermaid text and as SVG.

Components are in layers along the connections: a source is left of its target, except where the
circuit closes.
"""

from collections.abc import Mapping
from html import escape

from rich.text import Text
from rich.tree import Tree

from app.schemas.equipment import Component, Equipment

STATES: Mapping[str, tuple[str, str]] = {
    "healthy": ("green", "#2e7d32"),
    "watch": ("yellow", "#f9a825"),
    "degraded": ("dark_orange", "#ef6c00"),
    "critical": ("bold red", "#c62828"),
    "unknown": ("bright_black", "#757575"),
}
"""Colour of each state in a terminal and in a drawing."""
States = Mapping[str, str]
"""State by component id; without one a component has no colour."""

_BOX = (150, 44)
_GAP = (90, 34)
_MARGIN = 20
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size_x} {size_y}" font-family="sans-serif"
 font-size="12">
<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"
 orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>"""


def layers(equipment: Equipment) -> dict[str, int]:
    """Return each component's layer: the longest path to it that meets no component twice.

    Connections that close a circuit, found depth first in file order, do not count.
    """
    targets: dict[str, list[str]] = {name: [] for name in equipment.component_ids}
    has_source = set()
    for connection in equipment.connections:
        targets[connection.source].append(connection.target)
        has_source.add(connection.target)
    roots = [name for name in equipment.component_ids if name not in has_source]
    order: list[str] = []
    done: set[str] = set()
    closing: set[tuple[str, str]] = set()
    for root in [*roots, *equipment.component_ids]:
        if root in done:
            continue
        path = {root}
        stack = [(root, iter(targets[root]))]
        while stack:
            name, rest = stack[-1]
            for target in rest:
                if target in path:
                    closing.add((name, target))
                elif target not in done:
                    path.add(target)
                    stack.append((target, iter(targets[target])))
                    break
            else:
                stack.pop()
                path.discard(name)
                done.add(name)
                order.append(name)
    found = dict.fromkeys(equipment.component_ids, 0)
    for name in reversed(order):
        for target in targets[name]:
            if (name, target) not in closing:
                found[target] = max(found[target], found[name] + 1)
    return found


def drawn(equipment: Equipment, states: States) -> Tree:
    """Return the topology as a tree along the connections; a component is unfolded once."""
    placed = layers(equipment)
    known = {component.component_id: component for component in equipment.components}
    tree = Tree(Text(f"{equipment.equipment_id} ({equipment.design})", "bold"), guide_style="dim")
    nodes: dict[str, Tree] = {}
    for name in sorted(known, key=placed.__getitem__):
        into = [each for each in equipment.connections if each.target == name]
        parent = next((each for each in into if each.source in nodes), None)
        label = _label(known[name], states.get(name))
        if parent is None:
            nodes[name] = tree.add(label)
        else:
            nodes[name] = nodes[parent.source].add(
                Text(f"{_medium(parent.medium)} ", "dim") + label
            )
        for each in into:
            if each is not parent:
                place = nodes.get(each.source, nodes[name])
                text = f"{_medium(each.medium)} {name} (see there)"
                if place is nodes[name]:
                    text = f"fed by {each.source}, {each.medium.replace('_', ' ')}"
                place.add(Text(text, "dim"))
    return tree


def _label(component: Component, state: str | None) -> Text:
    label = Text(component.component_id, STATES[state][0] if state else "bold")
    if state:
        label.append(f" {state}", STATES[state][0])
    sensors = " ".join(sensor.sensor_id for sensor in component.sensors)
    kind = "" if component.type == component.component_id else f" {component.type}"
    return label.append(f"{kind}  {sensors}".rstrip(), "dim")


def _medium(medium: str) -> str:
    return f"\N{BOX DRAWINGS LIGHT HORIZONTAL}{medium.replace('_', ' ')}\N{RIGHTWARDS ARROW}"


def mermaid(equipment: Equipment, states: States) -> str:
    """Return the topology as a Mermaid flowchart."""
    number = {name: f"c{index}" for index, name in enumerate(equipment.component_ids)}
    lines = ["flowchart LR"]
    for component in equipment.components:
        sensors = ", ".join(sensor.sensor_id for sensor in component.sensors)
        text = f"{component.component_id}<br>{sensors}" if sensors else component.component_id
        lines.append(f'    {number[component.component_id]}["{text}"]')
    lines += [
        f"    {number[each.source]} -- {each.medium.replace('_', ' ')} --> {number[each.target]}"
        for each in equipment.connections
    ]
    lines += [
        f"    style {number[name]} fill:{STATES[state][1]},color:#fff"
        for name, state in states.items()
        if name in number
    ]
    return "\n".join(lines) + "\n"


def svg(equipment: Equipment, states: States) -> str:
    """Return the topology as an SVG image without scripts."""
    placed = layers(equipment)
    (width, height), (gap_x, gap_y) = _BOX, _GAP
    rows: dict[int, int] = {}
    corner: dict[str, tuple[int, int]] = {}
    for name in equipment.component_ids:
        column = placed[name]
        row = rows[column] = rows.get(column, -1) + 1
        corner[name] = (_MARGIN + column * (width + gap_x), _MARGIN + row * (height + gap_y))
    size_x = max(x for x, _ in corner.values()) + width + _MARGIN
    size_y = max(y for _, y in corner.values()) + height + 2 * _MARGIN
    parts = [_HEAD.format(size_x=size_x, size_y=size_y)]
    for each in equipment.connections:
        (x1, y1), (x2, y2) = corner[each.source], corner[each.target]
        start, end = (x1 + width, y1 + height // 2), (x2, y2 + height // 2)
        bend = gap_x // 2 if x2 > x1 else gap_x
        parts.append(
            f'<path d="M{start[0]} {start[1]} C{start[0] + bend} {start[1]} {end[0] - bend} '
            f'{end[1]} {end[0]} {end[1]}" fill="none" stroke="#555" marker-end="url(#end)">'
            f"<title>{escape(each.source)}, {escape(each.medium.replace('_', ' '))}, "
            f"{escape(each.target)}</title></path>"
        )
    for component in equipment.components:
        x, y = corner[component.component_id]
        state = states.get(component.component_id)
        fill, ink = (STATES[state][1], "#fff") if state else ("#eceff1", "#000")
        sensors = ", ".join(sensor.sensor_id for sensor in component.sensors)
        parts.append(
            f'<g><title>{escape(component.type)}: {escape(sensors)}</title><rect x="{x}" y="{y}" '
            f'width="{width}" height="{height}" rx="6" fill="{fill}" stroke="#37474f"/>'
            f'<text x="{x + width // 2}" y="{y + height // 2 + 4}" text-anchor="middle" '
            f'fill="{ink}">{escape(component.component_id)}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])
