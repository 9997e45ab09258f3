"""Prints how to ask, once the started service answers: `python -m app.cli.ready CONFIG`.

`make run` starts it beside the service. It ends without a word when the service ends.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import yaml

from app.core.errors import ReleaseError
from app.core.settings import Settings
from app.demo.simulation.live_files import WORN, past_ends
from app.release.clients.service_api import api_key
from app.store.keys import FIRST_KEY_FILE

EQUIPMENT = "hydraulic-rig"
LIVE_DEMO = "app.demo.live:live_demo"
TIMEOUT_S = 300.0
PAUSE_S = 0.25
WORN_PATIENCE_S = 60.0
"""How long the worn machine of the live fleet may take after the rig; then only the rig is
named."""

_READY = """\
Ready: {equipment} answers. In another terminal:
  curl -s {url}/health/ready
  curl -s {url}/v1/diagnoses -H "Authorization: Bearer {key}" \\
    -d '{{"equipment_id": "{equipment}", "explain": true}}'
"""
_WORN = """\
A simulated machine whose pump wears:
  curl -s {url}/v1/diagnoses -H "Authorization: Bearer {key}" \\
    -d '{{"equipment_id": "{equipment}", "explain": true}}'
"""


def problem_of_first_answer(
    client: httpx.Client, settings: Settings, equipment: str = EQUIPMENT
) -> str | None:
    """Ask for a diagnosis of a live machine; return why it has none yet, None if it has one.

    Args:
        client: of the service.
        settings: with the key, or the directory where the service writes the first one.
        equipment: id of the machine.
    """
    try:
        answer = client.post(
            "/v1/diagnoses",
            json={"equipment_id": equipment},
            headers={"authorization": f"Bearer {api_key(settings)}"},
        )
        found = answer.json()
    except ReleaseError as error:
        return error.message
    except httpx.HTTPError as error:
        return f"the service does not answer ({type(error).__name__})"
    except ValueError:
        return f"status {answer.status_code} without JSON"
    if answer.status_code != httpx.codes.OK:
        return str(found.get("detail", f"status {answer.status_code}"))
    if found["status"] != "ok":
        return f"the diagnosis has status {found['status']}: {'; '.join(found['reasons'])}"
    return None


def diagnose_past(client: httpx.Client, settings: Settings, now: datetime) -> None:
    """Have the earlier windows of the worn machine diagnosed, so that its trend is known.

    A failure is silent: the machine's answer then says that too few diagnoses are stored.

    Args:
        client: of the service.
        settings: with the key, or the directory where the service writes the first one.
        now: the present.
    """
    items = [{"equipment_id": WORN, "at": end.isoformat()} for end in past_ends(now)]
    with suppress(httpx.HTTPError, ReleaseError):
        client.post(
            "/v1/diagnoses/batch",
            json={"items": items},
            headers={"authorization": f"Bearer {api_key(settings)}"},
        )


def wait(
    url: str, settings: Settings, is_running: Callable[[], bool], *, has_fleet: bool = False
) -> int:
    """Wait for the first answer, print how to ask, and return the exit status.

    Args:
        url: of the service.
        settings: of the service.
        is_running: whether the service still runs.
        has_fleet: whether the simulated machines are fed too.
    """
    give_up = time.monotonic() + TIMEOUT_S
    with httpx.Client(base_url=url, timeout=10.0) as client:
        while is_running():
            reason = problem_of_first_answer(client, settings)
            if reason is None:
                key_file = settings.var_dir / FIRST_KEY_FILE
                if key_file.is_relative_to(Path.cwd()):
                    key_file = key_file.relative_to(Path.cwd())
                key = "$HYDRAULIC_API_KEY" if settings.api_key else f"$(cat {key_file})"
                sys.stdout.write(_READY.format(url=url, key=key, equipment=EQUIPMENT))
                sys.stdout.flush()
                if has_fleet and _worn_answers(client, settings, is_running):
                    sys.stdout.write(_WORN.format(url=url, key=key, equipment=WORN))
                    sys.stdout.flush()
                return 0
            if time.monotonic() >= give_up:
                sys.stderr.write(
                    f"error: expected an answer about {EQUIPMENT} within {TIMEOUT_S:g} s, found: "
                    f"{reason}; look at {url}/health/ready and at the lines above\n"
                )
                return 1
            time.sleep(PAUSE_S)
    return 0


def _worn_answers(client: httpx.Client, settings: Settings, is_running: Callable[[], bool]) -> bool:
    """Wait for the worn machine's first answer, have its history diagnosed, and return whether."""
    give_up = time.monotonic() + WORN_PATIENCE_S
    while is_running() and time.monotonic() < give_up:
        if problem_of_first_answer(client, settings, WORN) is None:
            diagnose_past(client, settings, datetime.now(UTC))
            return True
        time.sleep(PAUSE_S)
    return False


def main(config: Path) -> int:
    """Wait for the service with this configuration that the parent process runs."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    url = f"http://127.0.0.1:{content['http_options']['port']}"
    has_fleet = any(
        application["import_path"] == LIVE_DEMO and application.get("args", {}).get("simulated")
        for application in content["applications"]
    )
    parent = os.getppid()
    return wait(url, Settings(), lambda: os.getppid() == parent, has_fleet=has_fleet)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
