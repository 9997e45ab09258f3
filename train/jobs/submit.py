"""Runs this same command as a job on a Ray cluster that is there already, and follows it.

Invariant: what is secret travels as a variable of the job's environment, never in its command. Ray shows the environment of a job, and so
the DSN, to whoever may see the dashboard: let nobody else reach it, or hand over a DSN that may do little.
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
"""Of the sources, what no job needs."""
PASSED_ON = ("HYDRAULIC_", "MLFLOW_")
"""Variables whose names begin so go with the job."""
NOT_PASSED_ON = {"HYDRAULIC_API_KEY"}
VAR_DIR = "HYDRAULIC_VAR_DIR"
REVISION = "HYDRAULIC_GIT_REVISION"
"""Revision of the sources, which a job can't ask for: they go without their history."""


def submit(address: str, arguments: Sequence[str], dsn: str | None = None) -> int:
    """Submit `python -m train ARGUMENTS` with these sources, show its output, and wait for its end.

    Args:
        address: of the cluster's dashboard, such as `http://head:8265`.
        arguments: of the command, without `--address` and `--dsn`.
        dsn: database; it must be reachable from the cluster. None to pass on HYDRAULIC_DSN if it is set.

    Returns:
        The exit status: 0 when the job succeeded, 130 when it was interrupted here and therefore stopped there, else 1.

    Raises:
        InputError: no cluster answers at the address, or HYDRAULIC_VAR_DIR names no directory.
    """
    environment = job_environment(os.environ, dsn, git_revision())
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "train", *arguments]),
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
    """Return the variables that go with a job.

    Args:
        environment: of this process.
        dsn: database that was asked for; None for the one of the environment.
        revision: of the sources, for the checkpoint's manifest.

    Raises:
        InputError: HYDRAULIC_VAR_DIR names no directory.
    """
    if not environment.get(VAR_DIR):
        raise InputError(
            f"expected {VAR_DIR} to name a directory that all nodes of the cluster see, found none: set it; windows, fits and the "
            "checkpoint are kept there, and Ray deletes the copy of the sources that a job runs in",
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
