"""The faults, each as one function of the arena; `harness` has what they share."""

import contextlib
import json
import math
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from app.demo.rig.equipment import rig_equipment
from tests.chaos.harness import Arena, fault
from tests.chaos.load import MACHINES
from tests.rig import inline_readings, rig_cycle
from tests.system import PROJECT_DIR
from tests.waiting import wait_until

INGRESS = "ray::ServeReplica:diagnostics:Ingress"
BUILDER = "ray::ServeReplica:diagnostics:GraphBuilder"
MODEL = "ray::ServeReplica:model-1:Model"
CONTROLLER = "ray::ServeController"
HAPROXY = "haproxy"
GCS = "gcs_server"
FROZEN_S = 60.0
"""A frozen process that nobody replaces is continued after so long."""
GCS_DOWN_S = 75.0
"""How long the fault lasts: longer than the 60 s after which Ray's nodes end without a GCS."""
SLOW_CONNECTIONS = 10_000


def killed(arena: Arena, title: str) -> str:
    """Kill a process."""
    process = arena.the(title)
    process.kill()
    wait_until(lambda: not _runs(process), f"the end of {title}")
    return f"process {process.pid} is gone"


def frozen(arena: Arena, title: str) -> str:
    """Stop a process by SIGSTOP until it is replaced, at most `FROZEN_S`."""
    process = arena.the(title)
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "a stopped process")
    began = time.monotonic()
    while _runs(process) and time.monotonic() < began + FROZEN_S:
        time.sleep(0.25)
    seconds = time.monotonic() - began
    if not _runs(process):
        return f"process {process.pid} was stopped and replaced after {seconds:.0f} s"
    process.resume()
    return f"process {process.pid} was stopped for {seconds:.0f} s"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@fault("SIGKILL of the ingress")
def kill_ingress(arena: Arena) -> str:
    return killed(arena, INGRESS)


@fault("SIGKILL of a graph builder")
def kill_builder(arena: Arena) -> str:
    return killed(arena, BUILDER)


@fault("SIGKILL of a model replica")
def kill_model(arena: Arena) -> str:
    return killed(arena, MODEL)


@fault("SIGKILL of Serve's controller")
def kill_controller(arena: Arena) -> str:
    return killed(arena, CONTROLLER)


@fault("SIGKILL of HAProxy")
def kill_haproxy(arena: Arena) -> str:
    return killed(arena, HAPROXY)


@fault("SIGKILL of Ray's GCS", alert="ServiceDown")
def kill_gcs(arena: Arena) -> str:
    evidence = killed(arena, GCS)
    time.sleep(GCS_DOWN_S)
    return evidence


@fault("SIGSTOP of the ingress", alert="ServiceDown")
def stop_ingress(arena: Arena) -> str:
    return frozen(arena, INGRESS)


@fault("SIGSTOP of a graph builder", alert="GraphBuildersUnavailable")
def stop_builder(arena: Arena) -> str:
    return frozen(arena, BUILDER)


@fault("SIGSTOP of a model replica", alert="NoVersionAvailable")
def stop_model(arena: Arena) -> str:
    return frozen(arena, MODEL)


@fault("SIGSTOP of Serve's controller")
def stop_controller(arena: Arena) -> str:
    return frozen(arena, CONTROLLER)


@fault("SIGSTOP of HAProxy", alert="ServiceDown")
def stop_haproxy(arena: Arena) -> str:
    return frozen(arena, HAPROXY)


@fault("SIGSTOP of Ray's GCS")
def stop_gcs(arena: Arena) -> str:
    return frozen(arena, GCS)


@fault("SIGKILL of a database process")
def kill_backend(arena: Arena) -> str:
    """PostgreSQL ends all sessions when one of its processes is killed, and recovers."""
    backends = [each for each in arena.database.processes()[1:] if "[local]" not in each.name()]
    backend = next(each for each in backends if "127.0.0.1" in " ".join(each.cmdline()))
    backend.kill()
    wait_until(lambda: not _runs(backend), "the end of the backend")
    return f"backend {backend.pid} is gone"


@fault("SIGKILL of the database, started again after 5 s", alert="DatabaseUnavailable")
def kill_database(arena: Arena) -> str:
    pid = arena.database.kill()
    time.sleep(5)
    arena.database.start()
    return f"postmaster {pid} was killed"


@fault("database frozen for 3 s")
def freeze_database_shortly(arena: Arena) -> str:
    return _freeze_database(arena, 3)


@fault("database frozen for 30 s", alert="DatabaseUnavailable")
def freeze_database(arena: Arena) -> str:
    return _freeze_database(arena, 30)


def _freeze_database(arena: Arena, seconds: float) -> str:
    with arena.database.frozen() as stopped:
        wait_until(lambda: stopped[0].status() == psutil.STATUS_STOPPED, "a stopped postmaster")
        time.sleep(seconds)
    return f"{len(stopped)} processes were stopped"


@fault("database restarted")
def restart_database(arena: Arena) -> str:
    before = arena.database.processes()[0].pid
    arena.database.stop("fast")
    arena.database.start()
    after = arena.database.processes()[0].pid
    assert after != before
    return f"postmaster {before} became {after}"


@fault("database with a full disk for 10 s")
def fill_disk(arena: Arena) -> str:
    """The server may end for want of space for its log; then its keeper starts it again."""
    ballast = arena.disk / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * (1 << 20))
            file.flush()
    time.sleep(10)
    free = shutil.disk_usage(arena.disk).free
    log = arena.database.log.read_text(errors="replace")
    ballast.unlink()
    assert "No space left on device" in log, (free, log[-2000:])
    if not arena.database.processes():
        arena.database.start()
        return "the server ended for want of space and was started again"
    return "the server refused writes for want of space"


@fault("database failed over to a standby", may_fire="DatabaseUnavailable")
def fail_over(arena: Arena) -> str:
    standby = arena.standby()
    primary, arena.database = arena.database, standby
    pid = primary.kill()
    arena.proxy.target = ("127.0.0.1", standby.port)
    standby.promote()
    assert standby.sql("select pg_is_in_recovery()").strip() == "f"
    return f"primary {pid} was killed, its synchronous standby promoted"


@fault("all connections to the database reset, new ones refused for 3 s")
def reset_connections(arena: Arena) -> str:
    arena.proxy.refuses = True
    count = arena.proxy.reset_all()
    time.sleep(3)
    arena.proxy.refuses = False
    assert arena.proxy.resets > 0
    return f"{count} connections were reset, {arena.proxy.resets - count} refused"


@fault("5 s of latency to the database for 20 s", alert="DatabaseUnavailable")
def slow_connections_to_database(arena: Arena) -> str:
    arena.proxy.delay_s = 5.0
    time.sleep(20)
    arena.proxy.delay_s = 0.0
    assert arena.proxy.delayed_bytes > 0
    return f"{arena.proxy.delayed_bytes} bytes came 5 s late"


@contextlib.contextmanager
def _lossy_namespace(loss: str) -> Iterator[tuple[str, str]]:
    """A network namespace whose link loses packets: its name and its address."""
    name = f"chaos{secrets.token_hex(3)}"
    inside, outside = f"i{name[5:]}", f"o{name[5:]}"
    net = 16 + secrets.randbelow(200)
    host, address = f"10.213.{net}.1", f"10.213.{net}.2"
    for command in (
        f"ip netns add {name}",
        f"ip link add {outside} type veth peer name {inside} netns {name}",
        f"ip addr add {host}/30 dev {outside}",
        f"ip link set {outside} up",
        f"ip -n {name} addr add {address}/30 dev {inside}",
        f"ip -n {name} link set {inside} up",
        f"ip -n {name} link set lo up",
        f"tc -n {name} qdisc add dev {inside} root netem loss {loss}",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    try:
        yield name, address
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


_RELAY = """
import asyncio, contextlib, sys
async def copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
async def relay(reader, writer):
    to_reader, to_writer = await asyncio.open_connection(sys.argv[2], int(sys.argv[3]))
    await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))
async def main():
    server = await asyncio.start_server(relay, sys.argv[1], 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@fault("30 % packet loss to the database for 20 s")
def lose_packets(arena: Arena) -> str:
    """The proxy's way to the database leads through a namespace with a lossy link, and back."""
    with _lossy_namespace("30%") as (name, address):
        host = address.rpartition(".")[0] + ".1"
        to_database = ["127.0.0.1", str(arena.database.port)]
        outside = subprocess.Popen(
            [sys.executable, "-c", _RELAY, host, *to_database], stdout=subprocess.PIPE
        )
        port = str(_port_of(outside))
        command = ["ip", "netns", "exec", name, sys.executable, "-c", _RELAY, address, host, port]
        inside = subprocess.Popen(command, stdout=subprocess.PIPE)
        before = arena.proxy.target
        try:
            to_relay = (address, _port_of(inside))
            arena.proxy.target = to_relay
            arena.proxy.reset_all()
            time.sleep(20)
        finally:
            arena.proxy.target = before
            arena.proxy.reset_all()
            for process in (inside, outside):
                process.kill()
                process.wait()
        text = subprocess.run(
            ["tc", "-s", "-n", name, "qdisc", "show"], capture_output=True, text=True, check=True
        ).stdout
    dropped = int(text.partition("dropped ")[2].partition(",")[0])
    assert dropped > 0, text
    return f"{dropped} packets were dropped"


def _port_of(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@contextlib.contextmanager
def second_raylet(arena: Arena) -> Iterator[psutil.Process]:
    """Join a second node to the cluster; yields its raylet."""
    raylets = {each.pid for each in arena.find("raylet/raylet")}
    gcs = next(
        part.partition("=")[2]
        for part in arena.the("raylet/raylet").cmdline()
        if part.startswith("--gcs-address=")
    )
    ray = str(Path(sys.executable).with_name("ray"))
    resources = json.dumps({"second": 1})
    with (arena.directory / "second.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(ray, "start", f"--address={gcs}", "--num-cpus=1", "--resources", resources),
                *("--block", "--object-store-memory=100000000"),
            ],
            env=arena.system.environment,
            cwd=PROJECT_DIR,
            stdout=log,
            stderr=log,
        )
    try:
        raylet = wait_until(
            lambda: [each for each in arena.find("raylet/raylet") if each.pid not in raylets],
            "a second raylet",
            limit_s=120,
        )[0]
        yield raylet
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


@fault("SIGKILL of a second node's raylet")
def kill_raylet(arena: Arena) -> str:
    """Half of the traffic has its model on that node; the other version is its fallback."""
    before = arena.system.config()
    config = arena.system.config()
    _traffic(config)[0]["weight"] = _traffic(config)[1]["weight"] = 50
    model = config["applications"][2]["deployments"][0]
    model["ray_actor_options"]["resources"] = {"second": 0.1}
    title = "ray::ServeReplica:model-2:Model"
    with second_raylet(arena) as raylet:
        arena.system.deploy(config)
        wait_until(
            lambda: any(each.ppid() == raylet.pid for each in arena.find(title)),
            "a model replica on the second node",
            limit_s=180,
        )
        raylet.kill()
        wait_until(lambda: not _runs(raylet), "the end of the raylet")
        time.sleep(15)
    arena.system.deploy(before)
    return f"raylet {raylet.pid} with a replica of version 2 was killed"


def _traffic(config: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = config["applications"][0]["deployments"][0]["user_config"][
        "traffic"
    ]["releases"]
    return found


RPC_FAILURES = json.dumps(
    {"*": {"num_failures": 100, "req_failure_prob": 5, "resp_failure_prob": 5}}
)


@fault("Ray's RPCs fail: 5 % of requests and of replies", RAY_testing_rpc_failure=RPC_FAILURES)
def fail_rpcs(arena: Arena) -> str:
    """Ray injects the failures by itself from its start; a replica is replaced under them."""
    evidence = killed(arena, MODEL)
    logs = list((arena.system.session_dir / "logs").glob("*.*"))
    marks = sum("RPC_FAILURE" in text or "rpc failure" in text.lower() for text in map(_text, logs))
    setting = arena.the("raylet/raylet").environ().get("RAY_testing_rpc_failure")
    assert setting == RPC_FAILURES
    return f"{evidence} while Ray dropped RPCs ({marks} log files say so)"


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


@fault("a poison graph in each of 20 batches", harmless=True)
def poison(arena: Arena) -> str:
    """Requests whose graph can't be scored, beside good ones: those are answered as before."""
    topology = rig_equipment().model_dump(mode="json") | {"equipment_id": "poison"}
    values, _ = rig_cycle(0)
    huge = {name: [3e38 if at % 2 else -3e38 for at in range(60)] for name in values}
    body = {
        "equipment_id": "poison",
        "equipment": topology,
        "readings": inline_readings(huge, "2026-01-01T00:00:00Z"),
    }
    statuses: dict[str, int] = {}
    with arena.load.client() as client:
        for _ in range(20):
            answer = client.post("/v1/diagnoses", json=body)
            found = answer.json()
            key = f"{answer.status_code} {found.get('status')}"
            statuses[key] = statuses.get(key, 0) + 1
            assert not any(
                isinstance(part.get("health"), float) and not math.isfinite(part["health"])
                for part in found.get("components", [])
            )
    assert "200 ok" not in statuses, statuses
    return f"20 poison graphs were answered {statuses}"


def _misbehave(arena: Arena, what: str, name: str, amount: float) -> int:
    """Have a replica hang for seconds or leak MiB; return its process id."""
    staged = arena.chaos_dir / f"staged{what}"
    staged.write_text(str(amount))
    staged.rename(arena.chaos_dir / f"{what}-{name}")
    done = wait_until(
        lambda: list(arena.chaos_dir.glob(f"done.{what}.{name}.*")), f"a replica that {what}s"
    )
    pid = int(done[0].name.rpartition(".")[2])
    for path in done:
        path.unlink()
    return pid


@fault("a model replica hangs for 60 s", alert="NoVersionAvailable")
def hang_model(arena: Arena) -> str:
    return _hang(arena, "model-1:Model")


@fault("the ingress hangs for 60 s", alert="ServiceDown")
def hang_ingress(arena: Arena) -> str:
    return _hang(arena, "diagnostics:Ingress")


def _hang(arena: Arena, name: str) -> str:
    process = psutil.Process(_misbehave(arena, "hang", name, FROZEN_S))
    began = time.monotonic()
    while _runs(process) and time.monotonic() < began + FROZEN_S + 1:
        time.sleep(0.25)
    seconds = time.monotonic() - began
    after = "replaced" if not _runs(process) else "not replaced"
    return f"process {process.pid} executed no Python and was {after} after {seconds:.0f} s"


@fault("a model replica leaks 2 GiB")
def leak_model(arena: Arena) -> str:
    pid = _misbehave(arena, "leak", "model-1:Model", 2048)
    process = psutil.Process(pid)
    began = time.monotonic()
    size = 0
    while _runs(process) and time.monotonic() < began + FROZEN_S:
        with contextlib.suppress(psutil.Error):
            size = max(size, process.memory_info().rss)
        time.sleep(0.25)
    assert size > 2 << 30, size
    after = "replaced" if not _runs(process) else "still there after a minute"
    return f"process {pid} grew to {size >> 20} MiB and is {after}"


@fault("a corrupt checkpoint is deployed as version 2", harmless=True)
def corrupt_checkpoint(arena: Arena) -> str:
    before = arena.system.config()
    config = arena.system.config()
    checkpoint = arena.directory / "corrupt"
    shutil.copytree(PROJECT_DIR / "app/weights/2", checkpoint)
    weights = max(checkpoint.rglob("*.onnx"), key=lambda path: path.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 0xFF
    weights.write_bytes(data)
    config["applications"][2]["args"]["checkpoint"] = str(checkpoint)
    arena.system.deploy(config)

    def failed() -> str:
        application = yaml.safe_load(arena.system.serve("status"))["applications"]["model-2"]
        return (
            application["status"]
            if "FAILED" in application["status"] or (application["status"] == "UNHEALTHY")
            else ""
        )

    status = wait_until(failed, "a failed deployment", limit_s=180, pause_s=1)
    arena.system.deploy(before)
    shutil.rmtree(checkpoint)
    wait_until(
        lambda: (
            yaml.safe_load(arena.system.serve("status"))["applications"]["model-2"]["status"]
            == "RUNNING"
        ),
        "version 2 again",
        limit_s=180,
        pause_s=1,
    )
    return f"its application was {status}"


@fault("readings whose clock jumps by years", harmless=True)
def jump_clocks(arena: Arena) -> str:
    """The time of a gateway goes back by 20 years, on by 60, and forth and back by an hour."""
    now = datetime.now(UTC)
    outcomes = {}
    with arena.load.client() as client:
        for name, at in {
            "20 years back": now - timedelta(days=7305),
            "60 years on": now + timedelta(days=21_915),
            "an hour on": now + timedelta(hours=1),
            "an hour back": now - timedelta(hours=1),
        }.items():
            rows = [
                {
                    "equipment_id": MACHINES[1],
                    "sensor_id": "PS1",
                    "time": (at + timedelta(seconds=second)).isoformat(),
                    "value": 150.0,
                }
                for second in range(20)
            ]
            answer = client.post("/v1/readings", json=rows)
            outcomes[name] = answer.status_code
            assert answer.status_code in (200, 422), answer.text
    assert outcomes["60 years on"] == outcomes["an hour on"] == 422, outcomes
    return f"answers {outcomes}"


@fault("two configurations deployed at once, five times", harmless=True)
def deploy_twice(arena: Arena) -> str:
    before = arena.system.config()
    weights: list[tuple[float, float]] = [(50, 50), (80, 20)]
    paths = []
    for number, (first, second) in enumerate(weights):
        config = arena.system.config()
        _traffic(config)[0]["weight"], _traffic(config)[1]["weight"] = first, second
        paths.append(arena.directory / f"config{number}.yaml")
        paths[-1].write_text(yaml.safe_dump(config))
    ends = []
    with ThreadPoolExecutor(2) as pool, arena.load.client() as client:
        for _ in range(5):
            list(pool.map(lambda path: arena.system.serve("deploy", str(path)), paths))

            def settled() -> tuple[float, ...]:
                releases = client.get("/v1/traffic").json()["releases"]
                found = tuple(item["weight"] for item in releases)
                return found if found in weights else ()

            ends.append(wait_until(settled, "one of the two configurations", limit_s=90))
    arena.system.deploy(before)
    return f"weights were then {sorted(set(ends))}"


@fault("a client that stops reading a stream for 20 s", harmless=True)
def stop_reading(arena: Arena) -> str:
    values, _ = rig_cycle(0)
    item = {
        "equipment_id": MACHINES[0],
        "readings": inline_readings(values, "2026-01-01T00:00:00Z"),
    }
    body = json.dumps({"items": [item] * 500}).encode()
    url = httpx.URL(arena.system.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((url.host, url.port or 80))
        head = (
            f"POST /v1/diagnoses/batch HTTP/1.1\r\nHost: {url.host}\r\n"
            f"Authorization: Bearer {arena.system.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        first = client.recv(1024)
        assert b" 200 " in first.split(b"\r\n", 1)[0], first
        time.sleep(20)
        waiting = client.recv(1 << 20, socket.MSG_PEEK)
    assert waiting
    return f"{len(waiting)} bytes waited unread in a small buffer"


@fault("as many slow connections as the machine allows, for 20 s", harmless=True)
def slow_connections(arena: Arena) -> str:
    """Each sends a byte of its headers now and then, and never ends them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(SLOW_CONNECTIONS, hard - 1_000)
    url = httpx.URL(arena.system.url)
    opened: list[socket.socket] = []
    try:
        give_up = time.monotonic() + 60
        for _ in range(count):
            if time.monotonic() > give_up:
                break
            connection = socket.socket()
            connection.settimeout(5)
            try:
                connection.connect((url.host, url.port or 80))
                connection.sendall(b"POST /v1/diagnoses HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            except OSError:
                connection.close()
                break
            opened.append(connection)
        most = len(opened)
        for _ in range(4):
            time.sleep(5)
            for connection in opened:
                with contextlib.suppress(OSError):
                    connection.sendall(b"a")
        closed = sum(_is_closed(connection) for connection in opened)
    finally:
        for connection in opened:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert most > 1_000, most
    return f"{most} connections (file limit {hard}), of which the service closed {closed}"


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)  # an answer, or the end
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
