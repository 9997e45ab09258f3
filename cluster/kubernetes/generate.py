"""Writes the parts of the manifests that other files of the project define.

`python -m cluster.kubernetes.generate` writes, below `cluster/kubernetes`,

- `overlays/NAME/serve-config.yaml`: `serveConfigV2` of the RayService, from `serve_config.yaml`;
- `base/alerts.yaml`: the PrometheusRule, from `cluster/monitoring/alerts.yaml`.

Run it after a change of either; a test compares the files. An overlay changes nothing of
`serve_config.yaml` but what its `Variant` says.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PROJECT_DIR = Path(__file__).resolve().parents[2]
DIRECTORY = Path(__file__).parent
SERVE_CONFIG = PROJECT_DIR / "serve_config.yaml"
ALERTS = PROJECT_DIR / "cluster/monitoring/alerts.yaml"
NAME = "hydraulic-diagnostics"
"""Of the RayService."""
DEMO = "app.demo.live:live_demo"
DIAGNOSTICS = "app.main:diagnostics"
MODEL = "app.main:model"
WIDTH = 48
"""Column after which a generated text goes on in the next line, at its next blank."""
HEADER = "# `python -m cluster.kubernetes.generate` writes this from {source}."


class Variant(NamedTuple):
    """What an overlay changes of `serve_config.yaml`, beside the address of HTTP.

    Args:
        with_demo: keep the live demonstration and the machine that it feeds.
        min_replicas: least replicas of each deployment, so that one may end with its node.
        max_replicas: most replicas of each deployment, where the file has fewer.
        gpus_of_a_model: GPUs of each model replica; such replicas keep the file's numbers.
    """

    with_demo: bool
    min_replicas: int = 1
    max_replicas: int = 1
    gpus_of_a_model: int = 0


VARIANTS: Mapping[str, Variant] = {
    "cpu": Variant(with_demo=False, min_replicas=2, max_replicas=8),
    "dev": Variant(with_demo=True),
    "gpu": Variant(with_demo=False, min_replicas=2, max_replicas=8, gpus_of_a_model=1),
}
"""By the name of the overlay."""


def serve_config(variant: Variant, text: str) -> str:
    """Return the configuration of an overlay.

    Args:
        variant: what it changes.
        text: of `serve_config.yaml`.
    """
    # an alias is another object in the result, so that a change stays in its place
    config: dict[str, Any] = _without_aliases(yaml.safe_load(text))
    # pods are reached by their own addresses
    config["http_options"]["host"] = "0.0.0.0"  # noqa: S104
    if not variant.with_demo:
        config["applications"] = [
            each for each in config["applications"] if each["import_path"] != DEMO
        ]
    for application in config["applications"]:
        if application["import_path"] == DIAGNOSTICS and not variant.with_demo:
            application["args"]["equipment"] = []
        on_gpus = application["import_path"] == MODEL and variant.gpus_of_a_model > 0
        for deployment in application["deployments"]:
            if on_gpus:
                options = deployment["ray_actor_options"]
                # a fraction of the file stays
                options["num_gpus"] = options.get("num_gpus") or variant.gpus_of_a_model
                continue
            scaled = deployment.get("autoscaling_config", {})
            for key in ("min_replicas", "max_replicas"):
                if key in scaled:
                    scaled[key] = max(scaled[key], getattr(variant, key))
    return _dumped(config)


def documents() -> dict[Path, str]:
    """Return the text of every generated file by its path."""
    source = SERVE_CONFIG.read_text(encoding="utf-8")
    written = {
        DIRECTORY / "overlays" / name / "serve-config.yaml": _service(serve_config(variant, source))
        for name, variant in VARIANTS.items()
    }
    return written | {DIRECTORY / "base/alerts.yaml": _rules(ALERTS.read_text(encoding="utf-8"))}


def _service(config: str) -> str:
    head = _dumped({"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": NAME}})
    return (
        f"{HEADER.format(source=SERVE_CONFIG.name)}\n{head}spec:\n  serveConfigV2: |\n"
        f"{textwrap.indent(config, '    ')}"
    )


def _rules(text: str) -> str:
    spec = yaml.safe_load(text)
    for group in spec["groups"]:
        for rule in group["rules"]:
            rule["expr"] = _Folded(rule["expr"])
    rules = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": NAME},
        "spec": spec,
    }
    source = ALERTS.relative_to(PROJECT_DIR).as_posix()
    return f"{HEADER.format(source=source)}\n{_dumped(rules)}"


class _Folded(str):
    """A text that is written over several lines."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Knows how a folded text is written."""


_Dumper.add_representer(
    _Folded,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style=">"),
)


def _dumped(value: object) -> str:
    written: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True
    )
    return written


def _without_aliases(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_aliases(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_aliases(item) for item in value]
    return value


def main() -> None:
    """Write the files."""
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(PROJECT_DIR)}")


if __name__ == "__main__":
    main()
