"""Run a training as a job on a running Ray cluster and follow its output.

Invariant: secrets travel in the job's environment, never in its command. Ray shows the environment
of a job, and so the DSN, to every user of the dashboard: restrict access to the dashboard, or pass
a DSN with few rights.
"""

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from app.core.errors import InputError
from app.core.settings import PROJECT_DIR
from train.jobs.job import git_revision

LEFT_OUT = (
    "var/",
    ".venv/",
    ".git/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".pytest_cache/",
    ".hypothesis/",
    "build/",
    ".coverage*",
)
"""Paths of the sources that no job needs."""
PASSED_ON = ("HYDRAULIC_", "MLFLOW_")
"""Prefixes of the variables that the job receives."""
NOT_PASSED_ON = {"HYDRAULIC_API_KEY"}
VAR_DIR = "HYDRAULIC_VAR_DIR"
REVISION = "HYDRAULIC_GIT_REVISION"
"""Git revision of the sources; the job receives them without their history."""


def submit(address: str, arguments: Sequence[str], dsn: str | None = None) -> int:
    """Submit `hydraulic train ARGUMENTS` with these sources, print its output and wait for its end.

    Args:
        address: of the cluster's dashboard, such as `http://head:8265`.
        arguments: of the command, without `--address` and `--dsn`.
        dsn: database, reachable from the cluster; None for HYDRAULIC_DSN if it is set.

    Returns:
        The exit status: 0 if the job succeeded, 130 if it was interrupted here and stopped, else 1.

    Raises:
        InputError: no cluster answers at the address, or HYDRAULIC_VAR_DIR is not set.
    """
    environment = job_environment(os.environ, dsn, git_revision())
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "app.cli.main", "train", *arguments]),
            runtime_env={
                "working_dir": str(PROJECT_DIR),
                "excludes": list(LEFT_OUT),
                "env_vars": environment,
            },
        )
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            f"expected a Ray cluster whose dashboard answers at '{address}', found none: {error}",
            "address",
        ) from error
    print(f"submitted {job_id} to {address}", flush=True)
    try:
        asyncio.run(_follow(client, job_id))
    except KeyboardInterrupt:
        client.stop_job(job_id)
        print(f"interrupted; stopped {job_id}", file=sys.stderr)
        return 130
    status, info = client.get_job_status(job_id), client.get_job_info(job_id)
    if status != JobStatus.SUCCEEDED:
        print(f"error: {job_id} ended as {status}: {info.message}", file=sys.stderr)
        return 1
    return 0


def job_environment(
    environment: Mapping[str, str], dsn: str | None, revision: str
) -> dict[str, str]:
    """Return the environment variables of a job.

    Args:
        environment: of this process.
        dsn: database; None for the one of the environment.
        revision: of the sources, for the checkpoint's manifest.

    Raises:
        InputError: HYDRAULIC_VAR_DIR is not set.
    """
    if not environment.get(VAR_DIR):
        raise InputError(
            f"expected {VAR_DIR} to name a directory that all nodes of the cluster share, found "
            "none: set it; windows, fits and the checkpoint are written there, since Ray deletes "
            "the working directory of a job",
            VAR_DIR,
        )
    passed = {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED_ON) and name not in NOT_PASSED_ON
    }
    # the job runs in another directory
    own = {
        VAR_DIR: str(Path(environment[VAR_DIR]).absolute()),
        REVISION: revision,
        "PYTHONUNBUFFERED": "1",
    }
    return passed | own | ({"HYDRAULIC_DSN": dsn} if dsn else {})


async def _follow(client: JobSubmissionClient, job_id: str) -> None:
    async for lines in client.tail_job_logs(job_id):
        print(lines, end="", flush=True)
