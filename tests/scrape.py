"""Reads the Prometheus text format: samples over all replicas."""

import re

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.eE+-]+|NaN|\+Inf)$", re.MULTILINE)
_OF_REPLICA = re.compile(r',?process="[^"]*",replica="[^"]*"')


def samples(text: str) -> dict[str, float]:
    """Return the samples by name and labels, summed over replicas, whose labels are left out."""
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        rest = _OF_REPLICA.sub("", labels)
        key = f"{name}{{{rest}}}" if rest else name
        found[key] = found.get(key, 0.0) + float(value)
    return found


def families(text: str) -> dict[str, float]:
    """Return the sum of the absolute samples of each family that has any; of histograms the count.

    Buckets and sums are left out, so a family changes when anything of it was observed.
    """
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    found: dict[str, float] = {}
    for name, _, value in _SAMPLE.findall(text):
        if name in kinds:
            found[name] = found.get(name, 0.0) + abs(float(value))
        elif name.endswith("_count"):
            family = name.removesuffix("_count")
            found[family] = found.get(family, 0.0) + float(value)
    return found
