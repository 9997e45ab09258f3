"""`hydraulic diagnose`: asks the running service about a machine and prints the answer."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.topology import STATES, drawn
from app.core.command_line import AsJson, time_argument
from app.core.errors import InputError, ModelUnavailable, UnknownError
from app.core.settings import Settings
from app.release.clients.service_api import api_key
from app.release.target import open_config, url_of_service
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis
from app.schemas.equipment import Equipment

commands = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

BAR = 10
"""Characters of a bar of full health."""
TIMEOUT_S = 60.0
BUSY = (429, 502, 503, 504)
"""Statuses of a service that may answer a moment later."""
PAUSE_S = 1.0
MOST_CAUSES = 3
"""Components that a verdict names."""
MOST_EVIDENCE = 4
DAY_S = 86_400.0
MOST_DAYS_IN_SECONDS = 2.0
"""Age from which on that line counts days."""
STALE_S = 300.0
"""Age of the newest reading that is worth a line."""
Url = Annotated[
    str | None,
    typer.Option(help="The service; default from http_options of serve_config.yaml."),
]


@commands.command(epilog="Example: hydraulic diagnose hydraulic-rig --explain")
def diagnose(
    equipment_id: Annotated[str, typer.Argument(metavar="ID", help="A registered machine.")],
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=time_argument,
            metavar="TIME",
            help="End of the window; default the last complete window, or cycle, before now.",
        ),
    ] = None,
    model_version: Annotated[
        str | None, typer.Option(help="Released version that answers.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which sensors are the evidence.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Diagnose a machine: how healthy each component is, how certain that is, and why.

    Needs a running service and a key: HYDRAULIC_API_KEY, or the one that the first start wrote.
    """
    settings = Settings()
    request = {
        "equipment_id": equipment_id,
        "at": at and at.isoformat(),
        "model_version": model_version,
        "explain": explain,
    }
    with service_client(settings, url) as client:
        answer = sent(client, "POST", "/v1/diagnoses", json=request)
        if as_json:
            typer.echo(answer.text)
            return
        machine = sent(client, "GET", f"/v1/equipment/{quote(equipment_id, safe='')}").json()
    diagnosis = Diagnosis.from_json(answer.content)
    topology = {name: machine[name] for name in Equipment.model_fields if name in machine}
    _show(Console(), diagnosis, Equipment.model_validate(topology))


def service_client(settings: Settings, url: str | None) -> httpx.Client:
    """Return a client of the service that sends a key.

    Raises:
        ReleaseError: there is no key.
    """
    base = url or url_of_service(settings, open_config(settings).read().config)
    return httpx.Client(
        base_url=base,
        headers={"authorization": f"Bearer {api_key(settings)}"},
        timeout=TIMEOUT_S,
    )


def sent(
    client: httpx.Client,
    method: str,
    path: str,
    *,
    attempts: int = 1,
    is_answer: Callable[[httpx.Response], bool] = lambda _: False,
    **request: Any,
) -> httpx.Response:
    """Send a request and return its answer.

    Args:
        client: of the service.
        method: of the request.
        path: of the request.
        attempts: how often to send it while the service is busy.
        is_answer: whether to return also this response, whose status is not a success.
        request: further arguments of httpx.

    Raises:
        UnknownError: the request names something that there is not.
        InputError: the service refuses the request for another reason. Messages are its problems'.
        ModelUnavailable: the service does not answer.
    """
    try:
        answer = client.request(method, path, **request)
    except httpx.HTTPError as error:
        raise ModelUnavailable(
            f"expected the service at {client.base_url}, found none that answers: start it with "
            "`make run`, give --url, or see `hydraulic doctor`"
        ) from error
    if answer.is_success or is_answer(answer):
        return answer
    if attempts > 1 and answer.status_code in BUSY:
        time.sleep(float(answer.headers.get("retry-after", PAUSE_S)))
        return sent(client, method, path, attempts=attempts - 1, is_answer=is_answer, **request)
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"expected an answer of the service, found status {answer.status_code}"
    raise (UnknownError if answer.status_code == httpx.codes.NOT_FOUND else InputError)(detail)


def _show(console: Console, diagnosis: Diagnosis, equipment: Equipment) -> None:
    window = diagnosis.window
    fallback = " (another version's: the chosen one failed)" if diagnosis.fallback else ""
    console.print(
        Text.assemble(
            (diagnosis.equipment_id, "bold"),
            f"  {window.start:%Y-%m-%d %H:%M:%S} to {window.end:%H:%M:%S}Z, version "
            f"{diagnosis.model_version}{fallback}",
        )
    )
    table = Table("component", "state", box=None)
    table.add_column("health", no_wrap=True)
    for name in ("interval", "condition", "life"):
        table.add_column(name)
    has_evidence = any(each.evidence for each in diagnosis.components)
    if has_evidence:
        table.add_column("evidence")
    for each in diagnosis.components:
        cells: list[Text | str] = [
            Text(each.component_id, "bold"),
            Text(each.state, STATES[each.state][0]),
            bar(each.health, each.state),
            "" if each.health is None else "{:.2f} to {:.2f}".format(*each.interval),
            _condition(each),
            "" if each.rul_h is None else f"{each.rul_h:.0f} h",
        ]
        table.add_row(*cells, *([evidence(each)] if has_evidence else []))
    console.print(table)
    for line in filter(None, map(wear, diagnosis.components)):
        console.print(Text(line), soft_wrap=True)
    for line in notes(diagnosis):
        console.print(Text(line), soft_wrap=True)
    states = {each.component_id: each.state for each in diagnosis.components}
    console.print(drawn(equipment, states))


def bar(health: float | None, state: str) -> Text:
    """Return a bar of a health in [0, 1] with its percentage."""
    if health is None:
        return Text("unknown", "dim")
    full = round(health * BAR)
    return Text.assemble(
        ("\N{FULL BLOCK}" * full, STATES[state][0]),
        ("\N{LIGHT SHADE}" * (BAR - full), "dim"),
        f" {health:4.0%}",
    )


def _condition(each: ComponentDiagnosis) -> str:
    if each.condition is None:
        return "usual or not, no labels" if each.basis == "novelty" else ""
    return (
        each.condition if each.confidence is None else f"{each.condition} ({each.confidence:.0%})"
    )


def wear(each: ComponentDiagnosis) -> str:
    """Return a component's degradation rate and remaining life with their intervals, or nothing."""
    said = []
    if each.degradation_interval is not None and each.degradation_rate is not None:
        low, high = each.degradation_interval
        said.append(f"loses {each.degradation_rate:.2f} ({low:.2f} to {high:.2f}) in 1000 h")
    if each.rul_interval_h is not None and each.rul_h is not None:
        low_h, high_h = each.rul_interval_h
        said.append(f"{each.rul_h:.0f} h left ({low_h:.0f} to {high_h:.0f})")
    if not said:
        return ""
    source = each.trend and each.trend.source
    return f"{each.component_id} {', '.join(said)}" + (f", by {source}" if source else "")


def evidence(each: ComponentDiagnosis) -> str:
    """Return the sensors that contribute most to a component's lost health."""
    largest = sorted(each.evidence, key=lambda one: -abs(one.contribution))[:MOST_EVIDENCE]
    return ", ".join(f"{one.sensor_id} {one.contribution:+.3f}" for one in largest)


def notes(diagnosis: Diagnosis) -> list[str]:
    """Return what a reader has to know about an answer: status, reasons, quality of the input."""
    found = [f"status {diagnosis.status}: {'; '.join(diagnosis.reasons) or 'no reason given'}"]
    if diagnosis.status == "ok" and not diagnosis.reasons:
        found = []
    quality = diagnosis.input
    if diagnosis.baseline is not None:
        of, until = diagnosis.baseline.start, diagnosis.baseline.end
        found.append(
            f"compared with its own baseline of {of:%Y-%m-%d %H:%M}Z to {until:%Y-%m-%d %H:%M}Z"
        )
    if not diagnosis.design_trained:
        found.append("the version was not trained on this design: no grades, wider intervals")
    for name, sensors in (
        ("without readings", quality.missing_sensors),
        (
            "left out as faulty",
            [f"{each.sensor_id} ({each.reason})" for each in quality.faulty_sensors],
        ),
        ("at fault", [f"{each.sensor_id} ({each.kind})" for each in quality.sensor_faults]),
        ("outside the range of training", quality.unusual_sensors),
    ):
        if sensors:
            found.append(f"sensors {name}: {', '.join(sensors)}")
    if diagnosis.verdict is not None and diagnosis.verdict != "none":
        likely = [f"{each.component_id} {each.score:.0%}" for each in diagnosis.root_cause]
        ranked = f"; likely cause: {', '.join(likely[:MOST_CAUSES])}" if likely else ""
        found.append(f"verdict {diagnosis.verdict}{ranked}")
    if quality.stale_s is not None and quality.stale_s > STALE_S:
        days = quality.stale_s / DAY_S
        age = f"{days:.0f} days" if days > MOST_DAYS_IN_SECONDS else f"{quality.stale_s:.0f} s"
        found.append(f"newest reading {age} old")
    return found
