"""Run a training as a job on a running Ray cluster and follow its output.

Invariant: secrets travel in the job's environment, never in its command. Ray shows the environment
of a job, and so the DSN and the credentials of the storage, to every user of the dashboard:
restrict access to the dashboard, or pass credentials with few rights.
"""

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from app.core.errors import InputError
from app.core.settings import PROJECT_DIR
from train.jobs.environment import pinned_packages
from train.jobs.job import git_revision

LEFT_OUT = (
    "var/",
    ".venv/",
    ".git/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".pytest_cache/",
    ".hypothesis/",
    ".grimp_cache/",
    ".import_linter_cache/",
    "app/weights/",
    "build/",
    ".coverage*",
)
"""Paths of the sources that no job needs."""
PASSED_ON = ("HYDRAULIC_", "MLFLOW_")
"""Prefixes of the variables that the job receives."""
NOT_PASSED_ON = {"HYDRAULIC_API_KEY"}
S3_VARIABLES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
}
"""Variables that the job receives for storage in S3; those that name files stay here."""
VAR_DIR = "HYDRAULIC_VAR_DIR"
STORAGE_URL = "HYDRAULIC_STORAGE_URL"
TRACKING = "MLFLOW_TRACKING_URI"
UNTRACKED = "--untracked"
REVISION = "HYDRAULIC_GIT_REVISION"
"""Git revision of the sources; the job receives them without their history."""


def submit(
    address: str,
    arguments: Sequence[str],
    dsn: str | None = None,
    *,
    with_packages: bool = False,
) -> int:
    """Submit `hydraulic train ARGUMENTS` with these sources, print its output and wait for its end.

    Args:
        address: of the cluster's dashboard, such as `http://head:8265`.
        arguments: of the command, without `--address` and `--dsn`.
        dsn: database, reachable from the cluster; None for HYDRAULIC_DSN if it is set.
        with_packages: have Ray install the packages of this environment on the nodes.

    Returns:
        The exit status: 0 if the job succeeded, 130 if it was interrupted here and stopped, else 1.

    Raises:
        InputError: no cluster answers at the address, neither variable names where the training
            writes, or a package to ship is not installed here.
    """
    environment = job_environment(os.environ, dsn, git_revision())
    if not (VAR_DIR in environment or TRACKING in environment or UNTRACKED in arguments):
        print(f"no run is recorded: set {TRACKING} to a server of MLflow", flush=True)
        arguments = [*arguments, UNTRACKED]
    # else it prints each file that it leaves out
    logging.getLogger("ray.dashboard.modules").setLevel(logging.ERROR)
    logging.getLogger("ray._private.runtime_env").setLevel(logging.ERROR)
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "app.cli.main", "train", *arguments]),
            runtime_env={
                "working_dir": str(PROJECT_DIR),
                "excludes": list(LEFT_OUT),
                "env_vars": environment,
                **({"uv": {"packages": pinned_packages()}} if with_packages else {}),
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
        InputError: neither HYDRAULIC_STORAGE_URL nor HYDRAULIC_VAR_DIR is set.
    """
    url, directory = environment.get(STORAGE_URL, ""), environment.get(VAR_DIR, "")
    if not url and not directory:
        raise InputError(
            f"expected {STORAGE_URL} to name storage that all nodes of the cluster reach, such as "
            f"s3://bucket/prefix, or {VAR_DIR} a directory that they share, found neither in the "
            "environment of this process (`.env` is not read for a cluster): set one; "
            "windows, fits and the checkpoint are written there, since Ray deletes the working "
            "directory of a job",
            STORAGE_URL,
        )
    of_storage = S3_VARIABLES if url.startswith(("s3:", "s3a:")) else set()
    passed = {
        name: value
        for name, value in environment.items()
        if value
        and (name.startswith(PASSED_ON) or name in of_storage)
        and name not in NOT_PASSED_ON
    }
    own = {REVISION: revision, "PYTHONUNBUFFERED": "1"}
    if directory:  # the job runs in another directory
        own[VAR_DIR] = str(Path(directory).absolute())
    return passed | own | ({"HYDRAULIC_DSN": dsn} if dsn else {})


async def _follow(client: JobSubmissionClient, job_id: str) -> None:
    async for lines in client.tail_job_logs(job_id):
        print(lines, end="", flush=True)
