"""The section `releases`: releases, rollbacks and refused versions under a constant load.

It measures which requests fail and how long each step takes. `python -m tests.bench.releases` runs
this section alone, in about seven minutes, and writes `var/bench/releases.json`. Commands run in
processes of their own, as an operator runs them. `misbehaving/` makes versions misbehave; the
application has no code for that.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import httpx

from app.checkpoint.manifest import FEATURE_SPEC, MANIFEST, WEIGHTS
from app.core.settings import Settings
from tests.bench.compare import Bench
from tests.system import PROJECT_DIR, System, running

RATE = 20.0
SECONDS = 300.0
HOLD_S = 10.0
"""Duration of each traffic split."""
SHIPPED = PROJECT_DIR / "app" / "weights"
KINDS = {"6": "raises", "9": "errs", "10": "sleeps"}


def measure(_: Bench) -> dict[str, object]:
    """Run the section for `make bench`."""
    return run(SECONDS)


def run(seconds: float) -> dict[str, object]:
    """Run all steps under at least this many seconds of load.

    Returns:
        `requests`, `failed`, `fallbacks` and `longest_gap_s` of the load; `steps`: each command or
            request with its exit status, its duration, the seconds until its traffic weights were
            in force, and the end of its output.
    """
    with tempfile.TemporaryDirectory(
        prefix="hydraulic-releases-", ignore_cleanup_errors=True
    ) as parent:
        directory = Path(parent)
        path = os.pathsep.join([str(Path(__file__).parent / "misbehaving"), str(PROJECT_DIR)])
        with running(directory, PYTHONPATH=path, MISBEHAVING=json.dumps(KINDS)) as system:
            port = system.config()["http_options"]["port"]
            text = (
                (PROJECT_DIR / "serve_config.yaml")
                .read_text()
                .replace("port: 8000", f"port: {port}")
            )
            system.config_path.write_text(text)
            release = Commands(system)
            release.run("apply")
            with _load(system, directory / "responses.jsonl") as responses:
                began = time.time()
                _run_steps(release, directory)
                time.sleep(max(0.0, began + seconds - time.time()))
                return {
                    "seconds": round(time.time() - began),
                    **_request_figures(responses),
                    "steps": release.steps,
                }


@dataclass
class Commands:
    """Runs and measures release commands on a running system."""

    system: System
    steps: list[dict[str, object]] = field(default_factory=list)

    def run(self, *arguments: str, status: int = 0, expect: str = "") -> None:
        """Run a command of `hydraulic release` and check its exit status and output."""
        where = ["--config", str(self.system.config_path), "--address", self.system.dashboard_url]
        command = [sys.executable, "-m", "app.cli.main", "release", *arguments, *where]
        environment = self.system.environment | {"PYTHONPATH": str(PROJECT_DIR)}
        with self._watched(" ".join(arguments)) as step:
            done = subprocess.run(
                command,
                cwd=PROJECT_DIR,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            step |= {
                "status": done.returncode,
                "output": (done.stderr or done.stdout).strip().splitlines()[-1][:400],
            }
        assert done.returncode == status, (arguments, done)
        assert expect in done.stdout + done.stderr, (arguments, done)

    def request(self, method: str, path: str, body: object) -> None:
        """Send a release request over HTTP."""
        with (
            self._watched(f"{method} {path} {json.dumps(body)}") as step,
            self.system.client() as client,
        ):
            response = client.request(method, path, json=body)
            step |= {"status": response.status_code, "output": response.text[-300:]}
        assert response.status_code in {200, 202}, response.text

    def wait_available(self, version: str) -> None:
        """Wait until a version is available: its deployment may go on after the response."""
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            with self.system.client() as client:
                models = client.get("/v1/models").json()["models"]
            if any(item["version"] == version and item["available"] for item in models):
                return
            time.sleep(0.5)
        raise AssertionError(f"expected version {version} to be available within 120 s")

    @contextlib.contextmanager
    def _watched(self, name: str) -> Iterator[dict[str, object]]:
        """Measure a step: `in_force_s` is when its last weights were first seen from outside."""
        step: dict[str, object] = {"step": name}
        done, seen = Event(), [(0.0, self._weights())]
        started = time.monotonic()

        def watch() -> None:
            while not done.is_set():
                found = self._weights()
                if found != seen[-1][1]:
                    seen.append((time.monotonic() - started, found))
                done.wait(0.02)

        watcher = Thread(target=watch)
        watcher.start()
        try:
            yield step
        finally:
            step["seconds"] = round(time.monotonic() - started, 2)
            done.set()
            watcher.join()
            step["in_force_s"] = [round(at, 2) for at, _ in seen[1:]]
            step["weights"] = seen[-1][1]
            self.steps.append(step)
            print(json.dumps(step), flush=True)

    def _weights(self) -> dict[str, float]:
        headers = {"authorization": f"Bearer {self.system.key}"}
        traffic = httpx.get(f"{self.system.url}/v1/traffic", headers=headers, timeout=30).json()
        return {item["version"]: item["weight"] for item in traffic["releases"]}


def _run_steps(release: Commands, directory: Path) -> None:
    file = release.system.config_path
    release.run(
        "deploy", "3", "--checkpoint", str(_version(directory, "3")), "--reason", "a good one"
    )
    for weights in (("1=90", "3=10"), ("1=50", "3=50"), ("3=100",)):
        release.run("split", *weights)
        time.sleep(HOLD_S)
    release.run("rollback")
    release.run("split", "1=100")
    release.run("retire", "3")
    release.request("PUT", "/v1/traffic", {"weights": {"1": 60, "2": 40}, "reason": "over HTTP"})
    time.sleep(HOLD_S)
    release.request("POST", "/v1/traffic/rollback", {"reason": "over HTTP"})
    release.run("retire", "2")
    release.request("POST", "/v1/models/2/deploy", {"reason": "over HTTP"})
    release.wait_available("2")

    whole = file.read_text()
    release.run(
        "deploy",
        "6",
        "--checkpoint",
        str(_version(directory, "6")),
        status=1,
        expect="constructor raises",
    )
    release.run(
        "deploy",
        "7",
        "--checkpoint",
        str(_corrupt(_version(directory, "7"))),
        status=1,
        expect="SHA-256",
    )
    release.run(
        "deploy",
        "8",
        "--checkpoint",
        str(_with_other_spec(_version(directory, "8"))),
        status=1,
        expect="do not belong together",
    )
    assert file.read_text() == whole
    file.write_text(whole.replace("max_ongoing_requests: 256", "max_ongoing_request: 256"))
    release.run("apply", status=1, expect="did you mean 'max_ongoing_requests'")
    file.write_text(whole)

    for version, guard in (("9", "errors<0.1%"), ("10", "p95<80ms")):
        release.run("deploy", version, "--checkpoint", str(_version(directory, version)))
        release.run(
            "promote",
            version,
            "--steps",
            "50,100",
            "--hold",
            "60s",
            "--guard",
            guard,
            status=3,
            expect="was rolled back at weight 50",
        )
        release.run("retire", version)
    assert file.read_text() == whole


def _version(directory: Path, version: str) -> Path:
    """Return a copy of a shipped checkpoint with another version number."""
    made = Path(shutil.copytree(SHIPPED / "2", directory / f"version-{version}"))
    _change_manifest(made, version=version)
    return made


def _corrupt(made: Path) -> Path:
    (made / WEIGHTS).write_bytes((made / WEIGHTS).read_bytes()[:-100])
    return made


def _with_other_spec(made: Path) -> Path:
    """Give a checkpoint a feature spec that does not fit its network, with the right hash."""
    spec = json.loads((made / FEATURE_SPEC).read_text())
    (made / FEATURE_SPEC).write_text(json.dumps(spec | {"quantities": spec["quantities"][:-1]}))
    stated = json.loads((made / MANIFEST).read_text())["sha256"]
    _change_manifest(
        made,
        sha256=stated
        | {FEATURE_SPEC: hashlib.sha256((made / FEATURE_SPEC).read_bytes()).hexdigest()},
    )
    return made


def _change_manifest(made: Path, **changes: object) -> None:
    manifest = json.loads((made / MANIFEST).read_text()) | changes
    (made / MANIFEST).write_text(json.dumps(manifest))


@contextlib.contextmanager
def _load(system: System, responses: Path) -> Iterator[Path]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.constant_load", system.url, str(RATE), str(responses)],
        cwd=PROJECT_DIR,
        env=os.environ | {"LOAD_KEY": system.key, "PYTHONPATH": str(PROJECT_DIR)},
    )
    try:
        while not (responses.is_file() and responses.stat().st_size):
            time.sleep(0.1)
        yield responses
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _request_figures(responses: Path) -> dict[str, object]:
    time.sleep(1.0)
    found = [json.loads(line) for line in responses.read_text().splitlines() if line.endswith("}")]
    sent = sorted(item["sent"] for item in found)
    took = sorted(item["answered"] - item["sent"] for item in found)
    return {
        "requests": len(found),
        "failed": [item for item in found if item["status"] != 200],
        "fallbacks": sum(bool(item["fallback"]) for item in found),
        "longest_gap_s": round(max(later - earlier for earlier, later in pairwise(sent)), 2),
        "p50_ms": round(1000 * took[len(took) // 2], 1),
        "p99_ms": round(1000 * took[len(took) * 99 // 100], 1),
    }


def main() -> None:
    """Run this section alone."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.releases", description="releases under load"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load, at least")
    found = run(parser.parse_args().seconds)
    output = Settings().var_dir / "bench"
    output.mkdir(parents=True, exist_ok=True)
    (output / "releases.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "steps"}))


if __name__ == "__main__":
    main()
