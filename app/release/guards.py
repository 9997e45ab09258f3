"""Guards of a promotion: what must stay below what, measured since a step began and in its last seconds.

`errors` is the share of calls to the version that failed, `p95` the time within which 95 of 100 calls to it ended; both also count
calls for which another version stood in. `disagreement` is the share of answers to which a shadow told something else, counting those
that the version returned and those that it was the shadow of. Other meters may add other names.
Invariant: a guard breaks on measured calls alone, never on their absence.
"""

import math
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from app.core.errors import InputError
from app.experiments.confidence import Sample, mean_interval

LEAST_CALLS = 20
"""Fewer calls, or pairs of answers, say nothing."""
MANY_FAILURES = 3
"""So many failures say enough among any number of calls: a version that hangs is soon left alone, and gets no more of them."""
RECENT_S = 20.0
"""A version that turns bad late in a step must not hide behind the step's good beginning."""
ALPHA = 0.05
"""Probability of a disagreement guard that breaks by chance in a step, over all looks; far less for the looks at its last seconds, which do not add up."""
RECENT_ALPHA = ALPHA / 50
DISAGREEMENT = "disagreement"
"""The guard that needs the versions to shadow each other."""
_UNITS: Mapping[str, Mapping[str, float]] = {
    "errors": {"%": 0.01},
    DISAGREEMENT: {"%": 0.01},
    "p95": {"ms": 0.001, "s": 1.0},
}
"""Units of each guard, one of which must stand there: a bare 80 would be 80 seconds to one and milliseconds to another reader."""
_GUARD = re.compile(r"\s*([a-z][a-z0-9_]*)\s*<\s*([0-9]+(?:\.[0-9]+)?)\s*(%|ms|s)?\s*")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Guard(NamedTuple):
    """A measure that must stay below a limit; `text` is how it was written."""

    name: str
    limit: float
    text: str


class Measured(NamedTuple):
    """A measure, and on how much it rests; a value of None says nothing. `least` is what it surely is, where chance has a share in it."""

    value: float | None
    calls: int
    least: float | None = None

    @property
    def judged(self) -> float | None:
        """What a guard is held against."""
        return self.value if self.least is None else self.least


class Meter(Protocol):
    """Measures one version while it walks a step."""

    names: frozenset[str]

    async def begin(self, version: str) -> None:
        """Begin a step."""

    async def measure(self) -> Mapping[str, Measured]:
        """Return the measures since then by the names of guards."""


class Calls(NamedTuple):
    """Calls to a version that one replica has counted: how many ended, failed, and ended within each bound of seconds.

    `compared` is how many answers of the version have an answer of another one beside them, and `disagreed` how many of these differ.
    """

    ended: float = 0.0
    failed: float = 0.0
    within: Mapping[float, float] = {}
    compared: float = 0.0
    disagreed: float = 0.0

    def since(self, before: "Calls") -> "Calls":
        """Return the calls after an earlier count."""
        within = {
            bound: count - before.within.get(bound, 0.0) for bound, count in self.within.items()
        }
        return Calls(
            self.ended - before.ended,
            self.failed - before.failed,
            within,
            self.compared - before.compared,
            self.disagreed - before.disagreed,
        )

    def joined(self, other: "Calls") -> "Calls":
        """Return the calls of both."""
        bounds = self.within.keys() | other.within.keys()
        within = {
            bound: self.within.get(bound, 0.0) + other.within.get(bound, 0.0) for bound in bounds
        }
        return Calls(
            self.ended + other.ended,
            self.failed + other.failed,
            within,
            self.compared + other.compared,
            self.disagreed + other.disagreed,
        )

    @property
    def errors(self) -> Measured:
        """Share that failed."""
        count = int(self.ended)
        enough = count >= LEAST_CALLS or self.failed >= MANY_FAILURES
        return Measured(self.failed / self.ended if enough else None, count)

    def disagreement(self, alpha: float = ALPHA) -> Measured:
        """Share of the compared answers that differ, and its always-valid lower bound."""
        count = int(self.compared)
        if count < LEAST_CALLS:
            return Measured(None, count)
        told = Sample(
            np.array([0.0, 1.0]), np.array([self.compared - self.disagreed, self.disagreed])
        )
        return Measured(self.disagreed / self.compared, count, mean_interval(told, alpha)[0])

    @property
    def p95(self) -> Measured:
        """Seconds within which 95 of 100 ended, between the bounds of the histogram in proportion."""
        count = int(self.ended)
        if count < LEAST_CALLS:
            return Measured(None, count)
        wanted, low, below = 0.95 * self.ended, 0.0, 0.0
        for bound in sorted(self.within):
            ended = self.within[bound]
            if ended >= wanted and ended > below:
                if math.isinf(bound):
                    return Measured(math.inf, count)
                return Measured(low + (bound - low) * (wanted - below) / (ended - below), count)
            low, below = bound, ended
        return Measured(math.inf, count)


class MetricsMeter:
    """Measures from the ingress replicas' `/metrics`.

    Args:
        fetch: returns the metrics of one replica, whichever answers.
        times: how often to ask, so that each replica answers once or more.
        beside: versions whose answers are compared with the promoted one's; other shadows are no affair of it.
        clock: monotonic seconds.
    """

    names = frozenset({"errors", "p95", DISAGREEMENT})

    def __init__(
        self,
        fetch: Callable[[], Awaitable[str]],
        times: int,
        beside: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._times = times
        self._beside = beside
        self._clock = clock
        self._version = ""
        self._first: dict[str, Calls] = {}
        self._newest: dict[str, Calls] = {}
        self._totals: deque[tuple[float, Calls]] = deque()

    async def begin(self, version: str) -> None:
        """Begin a step."""
        self._version = version
        self._first, self._newest = {}, {}
        self._totals.clear()
        await self._look()
        self._totals.append((self._clock(), Calls()))

    async def measure(self) -> Mapping[str, Measured]:
        """Return the measures, the worse of the whole step and its last seconds."""
        await self._look()
        total = Calls()
        for replica, calls in self._newest.items():
            total = total.joined(calls.since(self._first[replica]))
        now = self._clock()
        while len(self._totals) > 1 and self._totals[1][0] <= now - RECENT_S:
            self._totals.popleft()
        recent = total.since(self._totals[0][1])
        self._totals.append((now, total))
        return {
            "errors": _worse(total.errors, recent.errors),
            "p95": _worse(total.p95, recent.p95),
            DISAGREEMENT: _worse(total.disagreement(), recent.disagreement(RECENT_ALPHA)),
        }

    async def _look(self) -> None:
        for _ in range(self._times):
            replica, calls = read_calls(await self._fetch(), self._version, self._beside)
            self._first.setdefault(replica, calls)
            self._newest[replica] = calls


def read_calls(metrics: str, version: str, beside: Collection[str]) -> tuple[str, Calls]:
    """Take the replica's name and the calls to a version out of metrics in the Prometheus text format."""
    replica, ended, failed, within = "", 0.0, 0.0, {}
    compared = {"agreed": 0.0, "disagreed": 0.0}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "hydraulic_replica_info":
                replica = sample.labels["replica"]
            elif sample.name == "hydraulic_shadow_copies_total":
                pair = {sample.labels["version"], sample.labels["against"]}
                if (
                    version in pair
                    and pair - {version} <= set(beside)
                    and sample.labels["outcome"] in compared
                ):
                    compared[sample.labels["outcome"]] += sample.value
            elif sample.labels.get("version") != version:
                continue
            elif sample.name == "hydraulic_version_calls_total":
                ended += sample.value
                failed += sample.value if sample.labels["outcome"] == "failed" else 0.0
            elif sample.name == "hydraulic_version_seconds_bucket":
                within[float(sample.labels["le"])] = sample.value
    return replica, Calls(ended, failed, within, sum(compared.values()), compared["disagreed"])


def parse_guards(text: str, known: frozenset[str]) -> tuple[Guard, ...]:
    """Read `errors<0.1%,p95<80ms`.

    Raises:
        InputError: a part is no guard, its name is not measured, or its unit is none of that name's.
    """
    guards = []
    for part in text.split(","):
        found = _GUARD.fullmatch(part)
        if found is None:
            raise InputError(
                f"expected guards such as errors<0.1%,p95<80ms, found '{part.strip()}'"
            )
        name, number, unit = found.groups()
        if name not in known:
            raise InputError(f"expected a guard on {', '.join(sorted(known))}, found '{name}'")
        units = _UNITS.get(name, {"": 1.0})
        if (unit or "") not in units:
            raise InputError(
                f"expected {name} in {' or '.join(units) or 'no unit'}, found '{part.strip()}': such as errors<0.1%, p95<80ms"
            )
        guards.append(Guard(name, float(number) * units[unit or ""], part.strip()))
    return tuple(guards)


def parse_duration(text: str) -> float:
    """Read `90s`, `10m` or `1h` as seconds.

    Raises:
        InputError: it is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InputError(f"expected a duration such as 30s, 10m or 1h, found '{text}'")
    return float(found[1]) * _SECONDS[found[2]]


def broken(
    guards: tuple[Guard, ...], measured: Mapping[str, Measured]
) -> tuple[Guard, Measured] | None:
    """Return the first guard that does not hold, and what was measured."""
    for guard in guards:
        found = measured.get(guard.name, Measured(None, 0))
        if found.judged is not None and found.judged >= guard.limit:
            return guard, found
    return None


def counted(guard: str) -> str:
    """Return what a guard's measure rests on, in words."""
    return "pairs of answers" if guard == DISAGREEMENT else "calls"


def unknown(guards: tuple[Guard, ...], measured: Mapping[str, Measured]) -> tuple[Guard, ...]:
    """Return the guards of which nothing can be said yet."""
    return tuple(
        guard for guard in guards if measured.get(guard.name, Measured(None, 0)).value is None
    )


def _worse(whole: Measured, recent: Measured) -> Measured:
    if whole.judged is None or recent.judged is None:
        return whole
    return whole if whole.judged >= recent.judged else recent
