"""A real Prometheus with the shipped configuration, for tests: it scrapes a service often."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from tests.cluster.monitoring.debian import installed
from tests.system import PROJECT_DIR, free_port
from tests.waiting import wait_until

RULES = PROJECT_DIR / "cluster/monitoring/alerts.yaml"
START_LIMIT_S = 60.0


@contextmanager
def scraping(url: str, rules: Path, directory: Path, every_s: int = 1) -> Iterator[httpx.Client]:
    """Start Prometheus; stop it.

    Args:
        url: of the service.
        rules: its file of rules.
        directory: for its configuration, data and log.
        every_s: seconds between scrapes, and the longest that one may take.

    Yields:
        A client of its HTTP interface.
    """
    config = yaml.safe_load((PROJECT_DIR / "cluster/monitoring/prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": f"{every_s}s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(rules)]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                installed("prometheus"),
                f"--config.file={directory / 'prometheus.yaml'}",
                f"--storage.tsdb.path={directory / 'prometheus'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            wait_until(lambda: _is_ready(client), "Prometheus", START_LIMIT_S)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.HTTPError:
        return False
