"""Draws a machine as text for a terminal, or as Mermaid for documents."""

from collections.abc import Iterator

from app.demo.simulation.machine import MachineDesign

_ARROWS = {"shaft": "==>", "pressure_line": "-->", "return_line": "-.->", "suction_line": "-.->"}


def as_text(design: MachineDesign) -> str:
    """Return components with sensors and faults, connections and the duty cycle, line by line."""
    return "\n".join(_lines(design)) + "\n"


def _lines(design: MachineDesign) -> Iterator[str]:
    sensors = len(design.sensors)
    yield f"{design.name} (simulated): {design.description}"
    yield f"{len(design.components)} components, {sensors} sensors, design {design.design}"
    yield ""
    equipment = design.equipment(design.machine)
    width = max(len(each.component_id) for each in design.components)
    for each in design.components:
        yield f"{each.component_id:{width}}  {each.kind}"
        if each.sensors:
            names = ", ".join(f"{s.sensor_id} [{s.unit}]" for s in each.sensors)
            yield f"{'':{width}}    sensors: {names}"
        for fault, spec in each.faults.items():
            yield f"{'':{width}}    fault: {fault}, {spec.life_h:g} h from onset to failure"
    yield ""
    for link in equipment.connections:
        yield f"{link.source} {_ARROWS.get(link.medium, '-->')} {link.target}  ({link.medium})"
    yield ""
    for name, program in design.duty.programs.items():
        yield f"program {name}: {program.seconds[-1] - program.seconds[0]:g} s"


def as_mermaid(design: MachineDesign) -> str:
    """Return a flowchart: a box per component with its number of sensors, an arrow per line."""
    lines = ["flowchart LR"]
    for each in design.components:
        sensors = len(each.sensors)
        count = f"<br>{sensors} sensor{'' if sensors == 1 else 's'}" if sensors else ""
        lines.append(f'    {each.component_id}["{each.component_id}{count}"]')
    for link in design.equipment(design.machine).connections:
        arrow = _ARROWS.get(link.medium, "-->")
        lines.append(f"    {link.source} {arrow} {link.target}")
    return "\n".join(lines) + "\n"
