"""Starts trainings as jobs of the Ray cluster, for the admin routes; reports and cancels them.

A job trains, then registers the checkpoint. Its command line is a fixed list of arguments with
validated values. It inherits the environment of the cluster's nodes and is given no secret, since
everyone with access to the dashboard can read what a job is given.
"""

import asyncio
import json
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from app.core.errors import InputError, TrainingRefused, UnknownTraining
from app.core.settings import Settings
from app.release.clients.jobs_api import Job, JobsApi
from app.release.clients.serve_api import ray_token
from app.schemas.trainings import Training, TrainingLog, TrainingRequest, TrainingStatus
from app.store.store import Store

NEEDED = ("torch", "torch_geometric", "sklearn", "pandas", "onnxscript", "mlflow")
"""Modules of the extra `train` without which no training starts."""
MOST_RUNNING = 4
DIRECTORY = "trainings"
"""Of checkpoints and versions of trainings, under `var/checkpoints`."""
_LABEL, _LABEL_VALUE = "hydraulic", "training"
_STATUSES: dict[str, TrainingStatus] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Trainings:
    """Trainings of the cluster of this replica; jobs that others started do not count.

    Args:
        settings: name the directory of the checkpoints, which all nodes share.
        store: knows the registered machines.
        dashboard: returns the address of Ray's dashboard; may block.
        cluster: returns the address of the cluster.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        dashboard: Callable[[], str],
        cluster: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._store = store
        self._dashboard = dashboard
        self._cluster = cluster

    async def start(self, actor: str, request: TrainingRequest) -> Training:
        """Submit a training.

        Raises:
            InputError: a machine is not registered, or none is of the design.
            TrainingRefused: the extra `train` is not installed, or too many trainings run.
            ClusterUnavailable: the cluster does not answer.
        """
        if absent := [name for name in NEEDED if find_spec(name) is None]:
            raise TrainingRefused(
                f"expected the extra `train` to be installed, found no {', '.join(absent)}: "
                "install the project with it on the nodes of the cluster"
            )
        await self._check_machines(request)
        training_id = f"training-{secrets.token_hex(6)}"
        async with await self._jobs_api() as jobs:
            unfinished = [
                each
                for each in await jobs.jobs()
                if _is_training(each) and each.status in {"PENDING", "RUNNING"}
            ]
            if len(unfinished) >= MOST_RUNNING:
                raise TrainingRefused(
                    f"expected fewer than {MOST_RUNNING} trainings in progress, found "
                    f"{len(unfinished)}: wait for one, or cancel it"
                )
            await jobs.submit(
                training_id,
                entrypoint(training_id, request, self._directory, self._cluster()),
                {
                    "HYDRAULIC_VAR_DIR": str(self._settings.var_dir.resolve()),
                    "PYTHONUNBUFFERED": "1",
                },
                {
                    _LABEL: _LABEL_VALUE,
                    "requested_by": actor,
                    "request": request.model_dump_json(exclude_none=True),
                },
            )
            return self._training(await jobs.job(training_id))

    async def _check_machines(self, request: TrainingRequest) -> None:
        if request.design is not None:
            if not await self._store.equipment_page(1, None, design=request.design, site=None):
                raise InputError(
                    f"expected a design of registered machines, found '{request.design}', of which "
                    "there are none: list machines with GET /v1/equipment",
                    "design",
                )
            return
        known = await self._store.get_equipment_of(request.equipment_ids)
        for position, equipment_id in enumerate(request.equipment_ids):
            if equipment_id not in known:
                raise InputError(
                    f"expected registered machines, found '{equipment_id}', which is not: register "
                    f"it with PUT /v1/equipment/{equipment_id}, or leave it out",
                    f"equipment_ids[{position}]",
                )

    async def newest(self) -> list[Training]:
        """Return all trainings, newest first."""
        async with await self._jobs_api() as jobs:
            found = [self._training(each) for each in await jobs.jobs() if _is_training(each)]
        return sorted(found, key=lambda each: (each.submitted_at or _BEGINNING, each.training_id))[
            ::-1
        ]

    async def get(self, training_id: str) -> Training:
        """Return a training.

        Raises:
            UnknownTraining: there is none of this id.
        """
        async with await self._jobs_api() as jobs:
            return await self._found(jobs, training_id)

    async def log(self, training_id: str, lines: int) -> TrainingLog:
        """Return the last lines of a training's output.

        Raises:
            UnknownTraining: there is none of this id.
        """
        async with await self._jobs_api() as jobs:
            await self._found(jobs, training_id)
            found = (await jobs.log(training_id)).splitlines()
        return TrainingLog(
            training_id=training_id, lines=tuple(found[-lines:]), complete=len(found) <= lines
        )

    async def cancel(self, training_id: str) -> Training:
        """Cancel a training; one that has ended stays as it is.

        Raises:
            UnknownTraining: there is none of this id.
        """
        async with await self._jobs_api() as jobs:
            found = await self._found(jobs, training_id)
            if found.status in {"pending", "running"}:
                await jobs.stop(training_id)
                found = await self._found(jobs, training_id)
            return found

    @property
    def _directory(self) -> Path:
        return self._settings.var_dir.resolve() / "checkpoints" / DIRECTORY

    async def _jobs_api(self) -> JobsApi:
        address = await asyncio.to_thread(self._dashboard)
        return JobsApi(address, ray_token(os.environ, Path.home()))

    async def _found(self, jobs: JobsApi, training_id: str) -> Training:
        found = await jobs.job(training_id)
        if not _is_training(found):
            raise UnknownTraining(
                f"expected the id of a training, found that of another job, '{training_id}': list "
                "trainings with GET /v1/trainings",
                "training_id",
            )
        return self._training(found)

    def _training(self, job: Job) -> Training:
        labels = job.metadata or {}
        training_id = job.submission_id or ""
        return Training(
            training_id=training_id,
            status=_STATUSES.get(job.status, "failed"),
            message=job.message or "",
            submitted_at=job.submitted_at,
            ended_at=job.ended_at,
            requested_by=labels.get("requested_by", ""),
            request=TrainingRequest.model_validate_json(labels["request"]),
            version=self._version(training_id) if job.status == "SUCCEEDED" else None,
        )

    def _version(self, training_id: str) -> str | None:
        try:
            found = json.loads(_result(self._directory, training_id).read_bytes())
        except (OSError, ValueError):
            return None  # of a directory that this node does not share
        return str(found["version"])


def entrypoint(training_id: str, request: TrainingRequest, directory: Path, cluster: str) -> str:
    """Return the command line of a job: it trains, then registers the checkpoint.

    Args:
        training_id: names the checkpoint.
        request: validated; its values are quoted.
        directory: of checkpoints.
        cluster: its address. Ray itself would give a job the address of the newest cluster of the
            node, such as that of a training which `hydraulic train start` runs there meanwhile.
    """
    out = directory / training_id
    train = ["-m", "app.cli.main", "train", "start"]
    train += ["--out", str(out), "--version", training_id]
    if request.design is not None:
        train += ["--design", request.design]
    else:
        train += ["--equipment", ",".join(request.equipment_ids)]
    for name, at in (("--start", request.start), ("--end", request.end)):
        if at is not None:
            train += [name, at.isoformat()]
    for name, value in request.settings.model_dump(exclude_none=True).items():
        train += [f"--{name.replace('_', '-')}", str(value)]
    result = str(_result(directory, training_id))
    register = ["-m", "app.release.registration", str(out), "--result", result]
    return f"RAY_ADDRESS={shlex.quote(cluster)} {_command(train)} && {_command(register)}"


def _command(arguments: Sequence[str]) -> str:
    return shlex.join([sys.executable, *arguments])


def _result(directory: Path, training_id: str) -> Path:
    return directory / f"{training_id}.json"


def _is_training(job: Job) -> bool:
    labels = job.metadata or {}
    if labels.get(_LABEL) != _LABEL_VALUE or job.submission_id is None:
        return False
    try:
        TrainingRequest.model_validate_json(labels.get("request", ""))
    except ValidationError:
        return False  # of another release of this project
    return True
