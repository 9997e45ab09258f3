"""Writes the generated parts of the documents: `python -m tests.docs.generate`.

Drawings come from the code's imports and from `serve_config.yaml`, tables from the JSON files that
the benchmark and training wrote. A test compares the documents with this output.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grimp
import yaml

from tests.bench.report import summary
from tests.bench.rig_report import rig_tables
from tests.docs.metrics import reference_page
from tests.system import PROJECT_DIR
from train.evaluation.baselines import EXTRA_TREES
from train.evaluation.health_baselines import AS_NEW, HEALTH_TREES
from train.evaluation.record import DEEP, THIS, WIDE

ARCHITECTURE = PROJECT_DIR / "docs/explanation/architecture.md"
BENCHMARKS = PROJECT_DIR / "docs/reference/benchmarks.md"
ALERTS = PROJECT_DIR / "cluster/monitoring/alerts.yaml"
MONITOR = PROJECT_DIR / "docs/how-to/monitor.md"
METRICS = PROJECT_DIR / "docs/reference/metrics.md"
SIMULATION = PROJECT_DIR / "docs/explanation/simulation.md"
RESILIENCE = PROJECT_DIR / "docs/reference/resilience.md"
MEASURED = PROJECT_DIR / "docs/reference/measured"
BENCHMARK = "20*.json"
RIG = "*-rig.json"
"""Runs of the simulated rig, whose tables are on a page of their own."""
ACCURACY = {"app/weights/1": "version 1", "app/weights/2": "version 2"}


def house() -> str:
    """Return a Mermaid drawing of the packages of `app` and `train` and of their imports.

    An import that longer paths imply already is left out.
    """
    graph = grimp.build_graph("app", "train")
    edges: dict[str, set[str]] = {}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            source, target = _package(importer), _package(imported)
            if (
                source != target
                and "app" not in (source, target)
                and "train" not in (source, target)
            ):
                edges.setdefault(source, set()).add(target)
    reduced = {
        (source, target)
        for source, targets in edges.items()
        for target in targets
        if not any(target in _reachable(other, edges) for other in targets - {target})
    }
    lines = ["flowchart TD", *(f"    {one} --> {two}" for one, two in sorted(reduced))]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for target in edges.get(waiting.pop(), ()):
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


def applications() -> str:
    """Return a Mermaid drawing of the applications and deployments of `serve_config.yaml`."""
    config = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    lines = ["flowchart LR", "    client([client]) -- HTTP --> Ingress"]
    models = []
    for application in config["applications"]:
        name = application["name"]
        lines.append(f'    subgraph {name}["application {name}"]')
        for deployment in application["deployments"]:
            node = deployment["name"]
            if application["import_path"] == "app.main:model":
                node = f"{name}-{node}"
                models.append(node)
            lines.append(f'        {node}["{deployment["name"]}"]')
        lines.append("    end")
    lines.append("    Ingress -- windows --> GraphBuilder")
    lines += [f"    Ingress -- graphs --> {model}" for model in models]
    lines.append("    Ingress <--> store[(PostgreSQL)]")
    lines.append("    LiveDemo -- readings --> store")
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def accuracy() -> Iterator[str]:
    """Yield the accuracy tables of the shipped versions, from their `metrics.json`."""
    for directory, title in ACCURACY.items():
        metrics = json.loads((PROJECT_DIR / directory / "metrics.json").read_text())
        evaluation = metrics["evaluation"]
        scorecards: Mapping[str, Any] = evaluation.get("scorecards") or evaluation["contenders"]
        graded = list(next(iter(scorecards.values()))["grades"])
        yield f"### {title}: macro-F1, mean of the folds ({evaluation['split']})"
        yield _table(
            ["model", *graded],
            [
                [name, *(f"{card['grades'][part]['mean_macro_f1']:.3f}" for part in graded)]
                for name, card in scorecards.items()
                if card["grades"]
            ],
        )
        if metrics["fleet"]:
            yield f"### {title}: held-out machines of each design"
            yield from _by_design(metrics["fleet"]["designs"])


def _by_design(designs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the errors of health and of remaining life of designs that wear."""
    for figure, unit, models in (
        (
            "health_mae",
            "Mean absolute error of health",
            (THIS, WIDE, DEEP, HEALTH_TREES, AS_NEW),
        ),
        (
            "rul_rmse_h",
            "RMSE of remaining life in hours, of the turbofan in cycles",
            (THIS, WIDE, DEEP, EXTRA_TREES),
        ),
    ):
        rows = []
        for design, found in designs.items():
            if not any(found.get(name, {}).get("rul_rmse_h") for name in models):
                continue
            numbers = [found.get(name, {}).get(figure) for name in models]
            shown = [
                "-" if each is None else f"{each:.4f}" if figure == "health_mae" else f"{each:.1f}"
                for each in numbers
            ]
            rows.append([design, *shown])
        yield f"{unit}:"
        yield _table(["design", *models], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def measured() -> Iterator[str]:
    """Yield the tables of every run of the benchmark in `docs/reference/measured`, newest first."""
    for path in sorted(set(MEASURED.glob(BENCHMARK)) - set(MEASURED.glob(RIG)), reverse=True):
        text = summary(json.loads(path.read_text())).removeprefix("# Measured\n\n")
        text = re.sub(r"^## ", "#### ", text, flags=re.MULTILINE).strip()
        yield f"### Run {path.stem}\n\n" + "\n".join(map(_wrapped, text.splitlines()))


def faults(name: str) -> str:
    """Return the table of faults that a file of measurements has, if it is there."""
    if not (MEASURED / name).exists():
        return "No run is recorded here."
    found = json.loads((MEASURED / name).read_text())
    head = ["fault", "what happened", "error window s", "recovery s", "failed", "acknowledged"]
    watched = any(each.get("fired") is not None for each in found["faults"])
    rows = []
    for each in found["faults"]:
        recovery = "never" if each["recovery_s"] is None else f"{each['recovery_s']:.1f}"
        lost = "not readable" if each["lost"] < 0 else str(each["lost"])
        rows.append(
            [
                each["fault"],
                each["evidence"],
                f"{each['error_window_s']:.1f}",
                recovery,
                f"{each['failed']} of {each['requests']}",
                str(each["acknowledged"]),
                lost,
                f"{each['load_average']:.0f}",
                *([_fired(each)] if watched else []),
                "; ".join(each["findings"]) or "yes",
            ]
        )
    alerts_head = ["alerts"] if watched else []
    return _table([*head, "lost", "load", *alerts_head, "held, or what was not"], rows)


def _fired(line: Mapping[str, Any]) -> str:
    """Return the alerts of a fault's measurement; pages are marked."""
    fired = line.get("fired")
    if fired is None:
        return "not watched"
    marks = {"page": " (page)"}
    return ", ".join(f"{name}{marks.get(severity, '')}" for name, severity in fired) or "none"


def soak() -> str:
    """Return the tables of the last long run, if one is recorded."""
    if not (MEASURED / "soak.json").exists():
        return "No long run is recorded here."
    found = json.loads((MEASURED / "soak.json").read_text())
    said = (
        f"{found['minutes']:g} minutes with a fault every {found['period_s']:g} s: "
        f"{found['failed']} of {found['requests']} requests failed, {found['failed_outside']} of "
        f"{found['outside']} outside the faults and their recovery; of {found['acknowledged']} "
        f"acknowledged readings {found['lost']} were lost. At most {found['database_sessions']} "
        f"sessions of the database; load average {found['load_average']:g} at the end."
    )
    head = ["process", "lives", "MB", "MB/h", "files", "files/h", "connections", "connections/h"]
    rows = [
        [
            str(each[name])
            for name in (
                "process",
                "lives",
                "rss_mb",
                "rss_mb_per_h",
                "files",
                "files_per_h",
                "connections",
                "connections_per_h",
            )
        ]
        for each in found["processes"]
    ]
    return f"{_wrapped(said)}\n\n{_table(head, rows)}"


def store() -> str:
    """Return the tables of hourly health and of restored backups, of the editions measured."""
    if not (MEASURED / "store.json").exists():
        return "No run is recorded here."
    found = json.loads((MEASURED / "store.json").read_text())
    health, restored = [], []
    for edition, each in found.items():
        part, kept = each["health"], each["restore"]
        health.append(
            [
                f"{edition}, PostgreSQL {part['server'].split()[0]}"
                + (f", TimescaleDB {part['timescaledb']}" if part["timescaledb"] else ""),
                f"{part['machines']:,}",
                str(part["days"]),
                f"{part['diagnoses']:,}",
                *(
                    f"{part[name]:,.0f}" if part[name] >= 10 else f"{part[name]:.1f}"
                    for name in ("fleet_ms", "raw_fleet_ms")
                ),
                f"{part['raw_fleet_ms'] / part['fleet_ms']:,.0f}",
                *(f"{part[name]:,.0f}" for name in ("machine_ms", "raw_machine_ms")),
                str(part["load_before"][0]),
            ]
        )
        restored.append(
            [
                edition,
                *(f"{kept[name]:,}" for name in ("machines", "readings", "rows", "file_mb")),
                *(f"{kept[name]:.1f}" for name in ("backup_s", "restore_s")),
            ]
        )
    head = ["edition", "machines", "days", "diagnoses", "fleet ms", "raw ms", "ratio"]
    of_machine = ["one machine ms", "raw ms", "load"]
    sizes = ["edition", "machines", "readings", "rows", "file MB", "backup s", "restore s"]
    return f"{_table([*head, *of_machine], health)}\n\n{_table(sizes, restored)}"


def simulated_rig() -> str:
    """Return the tables of the newest run of the simulated rig."""
    newest = max(MEASURED.glob(RIG))
    parts = rig_tables(json.loads(newest.read_text())["rig"])[1:]
    return "\n".join(map(_wrapped, "\n\n".join(parts).splitlines()))


def _wrapped(line: str) -> str:
    """Return a line of Markdown as lines of at most 100 characters; tables stay."""
    if line.startswith("|"):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(
        line, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def alerts() -> str:
    """Return the table of the alerts with links to their runbooks."""
    rows = [
        [
            f"[{rule['alert']}](runbooks/{rule['alert']}.md)",
            rule["labels"]["severity"],
            rule.get("for", "-"),
            re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"`\1`", rule["annotations"]["summary"]),
        ]
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return _table(["alert", "severity", "for", "what"], rows)


def _wrapped_page(text: str) -> str:
    return "\n".join(map(_wrapped, text.split("\n")))


def replaced(text: str, part: str, content: str) -> str:
    """Return a document with the content between the two marks of a part replaced."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"expected the marks {begin} and {end}, found none: add them")
    return f"{head}{begin}\n\n{content}\n\n{end}{tail}"


def documents() -> dict[Path, str]:
    """Return each document with generated parts as it must be."""
    architecture = ARCHITECTURE.read_text()
    for part, content in (("house", house()), ("applications", applications())):
        architecture = replaced(architecture, part, content)
    benchmarks = replaced(BENCHMARKS.read_text(), "accuracy", "\n\n".join(accuracy()))
    benchmarks = replaced(benchmarks, "runs", "\n\n".join(measured()).strip())
    benchmarks = replaced(benchmarks, "store", store())
    simulation = replaced(SIMULATION.read_text(), "rig", simulated_rig())
    resilience = RESILIENCE.read_text()
    parts = {"chaos": faults("chaos.json"), "nodes": faults("nodes.json"), "soak": soak()}
    for part, content in parts.items():
        resilience = replaced(resilience, part, content)
    return {
        ARCHITECTURE: architecture,
        BENCHMARKS: benchmarks,
        METRICS: _wrapped_page(reference_page()),
        MONITOR: replaced(MONITOR.read_text(), "alerts", alerts()),
        SIMULATION: simulation,
        RESILIENCE: resilience,
    }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
