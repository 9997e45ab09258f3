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
from tests.system import PROJECT_DIR

ARCHITECTURE = PROJECT_DIR / "docs/explanation/architecture.md"
BENCHMARKS = PROJECT_DIR / "docs/reference/benchmarks.md"
SIMULATION = PROJECT_DIR / "docs/explanation/simulation.md"
MEASURED = PROJECT_DIR / "docs/reference/measured"
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
        evaluation = json.loads((PROJECT_DIR / directory / "metrics.json").read_text())[
            "evaluation"
        ]
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


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def measured() -> Iterator[str]:
    """Yield the tables of every run of the benchmark in `docs/reference/measured`, newest first."""
    for path in sorted(set(MEASURED.glob("*.json")) - set(MEASURED.glob(RIG)), reverse=True):
        text = summary(json.loads(path.read_text())).removeprefix("# Measured\n\n")
        text = re.sub(r"^## ", "#### ", text, flags=re.MULTILINE).strip()
        yield f"### Run {path.stem}\n\n" + "\n".join(map(_wrapped, text.splitlines()))


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
    simulation = replaced(SIMULATION.read_text(), "rig", simulated_rig())
    return {ARCHITECTURE: architecture, BENCHMARKS: benchmarks, SIMULATION: simulation}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
