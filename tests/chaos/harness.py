"""Runs a fault under constant load and measures it: error window, recovery, readings lost.

A fault is a function of the `Arena`. It makes the fault happen, shows that it happened (an
AssertionError is a failed test of the suite itself), ends it where it does not end by itself, and
returns one sentence of evidence. Everything else is the same for all faults and done here.
"""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.chaos.alerts import OBJECTIVES, Alert, Alerts, alerts_of
from tests.chaos.database import Server, installed, small_disk
from tests.chaos.load import Load, loading
from tests.chaos.tcp_proxy import TcpProxy, proxied
from tests.system import PROJECT_DIR, System, running
from tests.waiting import wait_until

# Shells start background jobs with SIGINT ignored; the service would inherit that and never stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

RECOVERY_S = 30.0
"""A fault's errors may last this long after its end."""
CALM_S = 6.0
"""Without an error for so long, the service has recovered."""
GIVE_UP_S = 150.0
"""After the end of a fault, for the recovery."""
STORED_S = 90.0
"""For readings that were acknowledged and spooled to be stored."""
MOST_ERRORS = 0.001
"""Share of the requests outside the fault and its recovery time that may fail."""
DISK_MB = 400


@dataclass
class Arena:
    """A running system with a database behind a proxy, under load."""

    system: System
    database: Server
    proxy: TcpProxy
    directory: Path
    stack: ExitStack
    chaos_dir: Path
    disk: Path
    load: Load = field(default_factory=lambda: Load("", ""))
    alerts: Alerts | None = None
    """Of a Prometheus, where one watches."""

    def find(self, title: str) -> list[psutil.Process]:
        """Return the system's processes whose title or program contains a text."""
        found = []
        for process in self.system.processes():
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()) or title == process.name():
                    found.append(process)
        return found

    def the(self, title: str) -> psutil.Process:
        """Return the one process of a title; the first when there are more."""
        return wait_until(lambda: self.find(title), f"a process {title}")[0]

    def standby(self) -> Server:
        """Start a synchronous standby of the database."""
        server = Server(
            self.database.binaries, self.directory / "standby", self.directory / "standby.log"
        )
        server.follow(self.database)
        self.stack.callback(server.stop, "immediate")
        return server


def lost_readings(database: Server, load: Load) -> int:
    """Return how many acknowledged readings of a load are not in a database."""
    lost = 0
    for name, times in load.acknowledged.items():
        stored = database.sql(
            "select extract(epoch from r.time)::bigint from sensor_readings r "
            "join equipment e using (equipment_key) join equipment_sensors s "
            "on s.equipment_key = r.equipment_key and s.slot = r.slot "
            f"where e.equipment_id = '{name}' and s.sensor_id = 'PS1'"
        ).split()
        lost += len({str(int(at.timestamp())) for at in tuple(times)}.difference(stored))
    return lost


@dataclass(frozen=True)
class Fault:
    """A fault and its name in the table."""

    name: str
    make: Callable[[Arena], str]
    variables: dict[str, str]
    """Additional environment of the system; a fault with some gets a system of its own."""
    harmless: bool = False
    """Whether the requests of others may not fail while it lasts."""
    alert: str = ""
    """The alert that names it, where one does; no page of another cause may fire."""
    may_fire: str = ""
    """The alert that names it where it lasts about as long as the alert waits."""


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, *, harmless: bool = False, alert: str = "", may_fire: str = "", **variables: str
) -> Callable[[Callable[[Arena], str]], Callable[[Arena], str]]:
    """Register a function as a fault."""

    def register(make: Callable[[Arena], str]) -> Callable[[Arena], str]:
        FAULTS[make.__name__] = Fault(name, make, variables, harmless, alert, may_fire)
        return make

    return register


@contextlib.contextmanager
def arena(**variables: str) -> Iterator[Arena]:
    """Start a database, a proxy before it and the system; stop all of them."""
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)
            )
        )
        directory.chmod(0o711)
        binaries = installed(directory / "install")
        disk = directory / "disk"
        if os.geteuid() == 0:
            stack.enter_context(small_disk(disk, DISK_MB))
        database = Server(binaries, disk / "data", directory / "database.log")
        database.create()
        stack.callback(database.stop, "immediate")
        proxy = stack.enter_context(proxied(("127.0.0.1", database.port)))
        chaos_dir = directory / "chaos"
        chaos_dir.mkdir()
        system = stack.enter_context(
            running(
                directory,
                chaos_config(),
                HYDRAULIC_DSN=f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres",
                PYTHONPATH=str(Path(__file__).with_name("misbehaving")),
                CHAOS_DIR=str(chaos_dir),
                **variables,
            )
        )
        watching = stack.enter_context(alerts_of(system.url, directory))
        yield Arena(system, database, proxy, directory, stack, chaos_dir, disk, alerts=watching)


def chaos_config() -> dict[str, Any]:
    """Return the shipped configuration without the demonstration, which is a load of its own."""
    config: dict[str, Any] = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    config["applications"] = [
        each for each in config["applications"] if each["name"] != "live-demo"
    ]
    return config


@dataclass(frozen=True)
class Result:
    """A line of the table."""

    fault: str
    evidence: str
    fault_s: float
    """From the fault to its end."""
    error_window_s: float
    """From the first failed request to the last."""
    recovery_s: float | None
    """From the end of the fault to the answer of the last failed request; None: never."""
    requests: int
    failed: int
    failed_outside: int
    """Of requests before the fault and more than `RECOVERY_S` after its end."""
    outside: int
    acknowledged: int
    lost: int
    load_average: float
    errors: dict[str, int]
    harmless: bool = False
    alert: str = ""
    may_fire: str = ""
    fired: tuple[Alert, ...] | None = None
    """Alerts that fired from the fault to the recovery; None: nothing watched."""

    @property
    def findings(self) -> list[str]:
        """What the service did not hold; none when all is well."""
        found = []
        if self.recovery_s is None or self.recovery_s > RECOVERY_S:
            found.append(f"recovery within {RECOVERY_S:g} s")
        if self.lost:
            found.append("no acknowledged reading lost")
        if self.failed_outside > MOST_ERRORS * self.outside:
            found.append(f"errors outside the window under {MOST_ERRORS:.1%}")
        if self.harmless and self.failed > MOST_ERRORS * self.requests:
            found.append(f"errors under {MOST_ERRORS:.1%} while it lasts")
        names = {each.name for each in self.fired or ()}
        if self.fired is not None and self.alert and self.alert not in names:
            found.append(f"the alert {self.alert}")
        found += [
            f"no page {each.name}"
            for each in self.fired or ()
            if each.severity == "page"
            and each.name not in (self.alert, self.may_fire)
            and OBJECTIVES not in each.name
        ]
        return found


def measure(arena: Arena, fault: Fault) -> Result:
    """Make a fault under load, and wait for the recovery."""

    def make(load: Load) -> str:
        arena.load = load
        return fault.make(arena)

    began = time.time()
    url, key = arena.system.url, arena.system.key
    # the one after the fault: a standby may have taken its place
    result = measure_under_load(url, key, lambda: arena.database, make, fault)
    if arena.alerts is None:
        return result
    fired = arena.alerts.fired(began)
    return replace(result, alert=fault.alert, may_fire=fault.may_fire, fired=fired)


def measure_under_load(
    url: str,
    key: str,
    database: Callable[[], Server],
    make: Callable[[Load], str],
    fault: Fault,
    times: float = 1.0,
) -> Result:
    """Make a fault of a service under load, and wait for the recovery.

    Args:
        url: of the service.
        key: of its requests.
        database: returns that of the service.
        make: makes the fault and returns the evidence of it.
        fault: its name, and whether it has to be harmless.
        times: how many times the load's rates are sent.
    """
    with loading(url, key, times) as load:
        assert _wait_for_calm(load, time.monotonic()), "expected a calm service before the fault"
        began = time.monotonic()
        evidence = make(load)
        ended = time.monotonic()
        recovered = _wait_for_calm(load, ended)
        average = os.getloadavg()[0]
    give_up = time.monotonic() + (STORED_S if recovered else 0)
    while (lost := _lost(database(), load)) and time.monotonic() < give_up:
        time.sleep(1)
    answers = [each for each in load.answers if each.answered > began - CALM_S]
    failed = [each for each in answers if not each.ok and each.answered > began]
    outside = [each for each in answers if each.answered < began or each.sent > ended + RECOVERY_S]
    last = max((each.answered for each in failed), default=ended)
    kinds: dict[str, int] = {}
    for each in answers:
        if not each.ok:
            name = each.text.partition("(")[0] if each.status == 0 else ""
            key = f"{each.kind} {each.status} {name}".strip()
            kinds[key] = kinds.get(key, 0) + 1
    return Result(
        fault=fault.name,
        evidence=evidence,
        fault_s=round(ended - began, 1),
        error_window_s=round(last - min((each.sent for each in failed), default=last), 1),
        recovery_s=round(max(0.0, last - ended), 1) if recovered else None,
        requests=len(answers),
        failed=sum(not each.ok for each in answers),
        failed_outside=sum(not each.ok for each in outside),
        outside=len(outside),
        acknowledged=sum(map(len, load.acknowledged.values())),
        lost=lost,
        load_average=round(average, 1),
        errors=kinds,
        harmless=fault.harmless,
    )


def _lost(database: Server, load: Load) -> int:
    with contextlib.suppress(AssertionError):
        return lost_readings(database, load)
    return -1  # the database does not answer


def _wait_for_calm(load: Load, ended: float) -> bool:
    """Wait until each kind of request succeeds and none failed for `CALM_S`."""
    give_up = ended + GIVE_UP_S
    while time.monotonic() < give_up:
        time.sleep(0.2)
        since = time.monotonic() - CALM_S
        if since < ended - CALM_S / 2:
            continue
        recent = [each for each in load.answers if each.answered > since]
        if all(each.ok for each in recent) and {each.kind for each in recent} == {
            "inline",
            "stored",
            "ingest",
        }:
            return True
    return False
