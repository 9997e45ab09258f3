"""Guards of a promotion: limits on measurements of a step and of its last seconds.

`errors` is the share of calls to the version that failed, `p95` the time within which 95 % of them
ended; both count calls that another version answered as fallback. `disagreement` is the share of
answers that differ between the version and a shadow, in either role.
Invariant: only measured calls break a guard, never their absence.
"""

import math
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as MetricSample

from app.core.errors import InputError
from app.experiments.confidence import Sample, mean_interval

MIN_CALLS = 20
"""Calls, or pairs of answers, below which nothing is measured."""
MIN_FAILURES = 3
"""Failures that suffice with fewer calls: the router sends few calls to a version that hangs."""
RECENT_S = 20.0
"""A late failure must not be hidden by the good beginning of the step."""
ALPHA = 0.05
"""Probability that a disagreement guard breaks by chance during a step."""
RECENT_ALPHA = ALPHA / 50
"""The same for each look at the last seconds, whose probabilities add up."""
DISAGREEMENT = "disagreement"
"""Name of the guard for which the versions shadow each other."""
_UNITS: Mapping[str, Mapping[str, float]] = {
    "errors": {"%": 0.01},
    DISAGREEMENT: {"%": 0.01},
    "p95": {"ms": 0.001, "s": 1.0},
}
"""Units of each guard and their size; a number without a unit is refused as ambiguous."""
_GUARD = re.compile(r"\s*([a-z][a-z0-9_]*)\s*<\s*([0-9]+(?:\.[0-9]+)?)\s*(%|ms|s)?\s*")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Guard(NamedTuple):
    """A measurement that must stay below a limit; `text` is its source."""

    name: str
    limit: float
    text: str


class Measurement(NamedTuple):
    """A measured value, None while there are too few calls; `lower` is its confidence bound."""

    value: float | None
    calls: int
    lower: float | None = None

    @property
    def certain(self) -> float | None:
        """The value that guards compare with their limit."""
        return self.value if self.lower is None else self.lower


UNMEASURED = Measurement(None, 0)


class Calls(NamedTuple):
    """Counters of one replica about a version.

    Args:
        ended: Calls that ended.
        failed: Calls that failed.
        compared: Answers that were compared with another version's.
        disagreed: Compared answers that differ.
        within: Calls that ended within a bound, by bound in seconds.
    """

    ended: float = 0.0
    failed: float = 0.0
    compared: float = 0.0
    disagreed: float = 0.0
    within: Mapping[float, float] = {}

    def plus(self, other: "Calls", sign: float = 1.0) -> "Calls":
        """Return the sum of both; the difference with a sign of -1."""
        bounds = self.within.keys() | other.within.keys()
        return Calls(
            self.ended + sign * other.ended,
            self.failed + sign * other.failed,
            self.compared + sign * other.compared,
            self.disagreed + sign * other.disagreed,
            {at: self.within.get(at, 0.0) + sign * other.within.get(at, 0.0) for at in bounds},
        )

    @property
    def errors(self) -> Measurement:
        """Share of calls that failed."""
        count = int(self.ended)
        enough = count >= MIN_CALLS or self.failed >= MIN_FAILURES
        return Measurement(self.failed / self.ended if enough else None, count)

    def disagreement(self, alpha: float = ALPHA) -> Measurement:
        """Share of compared answers that differ, with its always-valid lower bound."""
        count = int(self.compared)
        if count < MIN_CALLS:
            return Measurement(None, count)
        counts = np.array([self.compared - self.disagreed, self.disagreed])
        sample = Sample(np.array([0.0, 1.0]), counts)
        return Measurement(self.disagreed / self.compared, count, mean_interval(sample, alpha)[0])

    @property
    def p95(self) -> Measurement:
        """95th percentile in seconds, interpolated between the histogram's bounds."""
        count = int(self.ended)
        if count < MIN_CALLS:
            return Measurement(None, count)
        wanted, low, below = 0.95 * self.ended, 0.0, 0.0
        for bound in sorted(self.within):
            ended = self.within[bound]
            if ended >= wanted and ended > below:
                if math.isinf(bound):
                    return Measurement(math.inf, count)
                return Measurement(low + (bound - low) * (wanted - below) / (ended - below), count)
            low, below = bound, ended
        return Measurement(math.inf, count)


class MetricsMeter:
    """Measures from `/metrics`.

    Args:
        fetch: Returns the metrics of all replicas.
        others: Versions whose answers are compared with the promoted one's.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[str]],
        others: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._others = others
        self._clock = clock
        self._version = ""
        self._first: dict[str, Calls] = {}
        self._newest: dict[str, Calls] = {}
        self._totals: deque[tuple[float, Calls]] = deque()

    async def begin(self, version: str) -> None:
        """Start a step."""
        self._version = version
        self._first, self._newest = {}, {}
        self._totals.clear()
        await self._fetch_all()
        self._totals.append((self._clock(), Calls()))

    async def measure(self) -> Mapping[str, Measurement]:
        """Return the worse measurement of the whole step and its last seconds, by guard name."""
        await self._fetch_all()
        total = Calls()
        for replica, calls in self._newest.items():
            total = total.plus(calls.plus(self._first[replica], -1.0))
        now = self._clock()
        while len(self._totals) > 1 and self._totals[1][0] <= now - RECENT_S:
            self._totals.popleft()
        recent = total.plus(self._totals[0][1], -1.0)
        self._totals.append((now, total))
        return {
            "errors": _worse(total.errors, recent.errors),
            "p95": _worse(total.p95, recent.p95),
            DISAGREEMENT: _worse(total.disagreement(), recent.disagreement(RECENT_ALPHA)),
        }

    async def _fetch_all(self) -> None:
        found = read_calls(await self._fetch(), self._version, self._others)
        for replica, calls in found.items():
            self._first.setdefault(replica, calls)
            self._newest[replica] = calls


def read_calls(metrics: str, version: str, others: Collection[str]) -> Mapping[str, Calls]:
    """Read a version's counters in each ingress replica from metrics in Prometheus text format.

    Args:
        metrics: of all replicas.
        version: whose counters are read.
        others: versions whose answers are compared with it.
    """
    found: dict[str, Calls] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.labels.get("process") != "ingress":
                continue
            replica = sample.labels["replica"]
            calls = found.get(replica, Calls())
            found[replica] = calls.plus(_calls_of(sample, version, others))
    return found


def _calls_of(sample: MetricSample, version: str, others: Collection[str]) -> Calls:
    """Return what one sample counts of a version's calls."""
    labels, value = sample.labels, sample.value
    if sample.name == "hydraulic_shadow_copies_total":
        pair, outcome = {labels["version"], labels["against"]}, labels["outcome"]
        if version in pair and pair - {version} <= set(others):
            compared = value if outcome in ("agreed", "disagreed") else 0.0
            return Calls(compared=compared, disagreed=value if outcome == "disagreed" else 0.0)
    elif labels.get("version") != version:
        return Calls()
    elif sample.name == "hydraulic_version_calls_total":
        return Calls(ended=value, failed=value if labels["outcome"] == "failed" else 0.0)
    elif sample.name == "hydraulic_version_seconds_bucket":
        return Calls(within={float(labels["le"]): value})
    return Calls()


def parse_guards(text: str) -> tuple[Guard, ...]:
    """Parse `errors<0.1%,p95<80ms`.

    Raises:
        InputError: A part is not a guard, its name is not measured, or its unit is wrong.
    """
    guards = []
    for part in text.split(","):
        found = _GUARD.fullmatch(part)
        if found is None:
            raise InputError(
                f"expected guards such as errors<0.1%,p95<80ms, found '{part.strip()}'"
            )
        name, number, unit = found.groups()
        if name not in _UNITS:
            raise InputError(f"expected a guard on {', '.join(sorted(_UNITS))}, found '{name}'")
        if unit not in _UNITS[name]:
            raise InputError(
                f"expected {name} in {' or '.join(_UNITS[name])}, such as errors<0.1% or p95<80ms, "
                f"found '{part.strip()}'"
            )
        guards.append(Guard(name, float(number) * _UNITS[name][unit], part.strip()))
    return tuple(guards)


def parse_duration(text: str) -> float:
    """Parse `90s`, `10m` or `1h` as seconds.

    Raises:
        InputError: It is not a duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InputError(f"expected a duration such as 30s, 10m or 1h, found '{text}'")
    return float(found[1]) * _SECONDS[found[2]]


def first_broken(
    guards: tuple[Guard, ...], measured: Mapping[str, Measurement]
) -> tuple[Guard, Measurement] | None:
    """Return the first broken guard and its measurement, or None."""
    for guard in guards:
        found = measured.get(guard.name, UNMEASURED)
        if found.certain is not None and found.certain >= guard.limit:
            return guard, found
    return None


def unit_of(guard: str) -> str:
    """Return what a guard counts, in words."""
    return "pairs of answers" if guard == DISAGREEMENT else "calls"


def undecided(guards: tuple[Guard, ...], measured: Mapping[str, Measurement]) -> tuple[Guard, ...]:
    """Return the guards with too few calls."""
    return tuple(guard for guard in guards if measured.get(guard.name, UNMEASURED).value is None)


def _worse(whole: Measurement, recent: Measurement) -> Measurement:
    if whole.certain is None or recent.certain is None:
        return whole
    return whole if whole.certain >= recent.certain else recent
