"""The environment of a job on a cluster, and the error without a cluster."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ray.runtime_env import RuntimeEnv

from app.core.errors import InputError
from tests.system import free_port
from train.jobs.environment import pinned_packages
from train.jobs.submit import job_environment, submit


def test_job_environment_has_the_database_and_no_local_settings() -> None:
    here = {
        "HYDRAULIC_DSN": "old",
        "HYDRAULIC_VAR_DIR": "/shared",
        "HYDRAULIC_API_KEY": "k",
        "HYDRAULIC_LOG_LEVEL": "INFO",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "HOME": "/",
    }
    found = job_environment(here, "new", "0abc-dirty")
    assert found == {
        "HYDRAULIC_DSN": "new",
        "HYDRAULIC_VAR_DIR": "/shared",
        "HYDRAULIC_LOG_LEVEL": "INFO",
        "HYDRAULIC_GIT_REVISION": "0abc-dirty",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "PYTHONUNBUFFERED": "1",
    }
    assert job_environment(here, None, "0abc")["HYDRAULIC_DSN"] == "old"


def test_directory_of_a_job_is_absolute() -> None:
    found = job_environment({"HYDRAULIC_VAR_DIR": "shared"}, None, "0abc")
    assert found["HYDRAULIC_VAR_DIR"] == str(Path.cwd() / "shared")


@pytest.mark.parametrize("here", [{}, {"HYDRAULIC_VAR_DIR": "", "HYDRAULIC_STORAGE_URL": ""}])
def test_job_that_has_nowhere_to_write_is_refused(here: dict[str, str]) -> None:
    with pytest.raises(
        InputError,
        match=r"HYDRAULIC_STORAGE_URL to name storage .*, or HYDRAULIC_VAR_DIR a directory that",
    ):
        job_environment(here, None, "0abc")


def test_job_on_shared_storage_gets_the_credentials_for_it_and_no_directory() -> None:
    here = {
        "HYDRAULIC_STORAGE_URL": "s3://plant/x",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_ENDPOINT_URL": "http://minio:9000",
    }
    found = job_environment(here, None, "0abc")
    assert here.items() <= found.items()
    assert "HYDRAULIC_VAR_DIR" not in found
    on_disk = {"HYDRAULIC_VAR_DIR": "/shared", "AWS_ACCESS_KEY_ID": "me"}
    assert "AWS_ACCESS_KEY_ID" not in job_environment(on_disk, None, "0abc")
    # it names a file of this machine
    assert "AWS_CONFIG_FILE" not in job_environment(here | {"AWS_CONFIG_FILE": "x"}, None, "0abc")


def test_variables_that_are_empty_are_not_set_for_the_job() -> None:
    here = {"HYDRAULIC_STORAGE_URL": "", "HYDRAULIC_VAR_DIR": "/shared", "MLFLOW_TRACKING_URI": ""}
    found = job_environment(here, None, "0abc")
    assert found["HYDRAULIC_VAR_DIR"] == "/shared"
    assert not {"HYDRAULIC_STORAGE_URL", "MLFLOW_TRACKING_URI"} & found.keys()


class _Client:
    """Ray's client of jobs, which only keeps what it was given."""

    submitted: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, address: str) -> None:
        self.address = address

    def submit_job(self, **given: Any) -> str:
        self.submitted.append(given)
        raise ConnectionError("enough")


def test_job_takes_along_packages_and_logs_no_run_that_would_be_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRAULIC_STORAGE_URL", "s3://plant/x")
    for name in ("HYDRAULIC_VAR_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("train.jobs.submit.JobSubmissionClient", _Client)
    with pytest.raises(InputError, match="enough"):
        submit("http://head:8265", ["start", "--equipment", "p"], with_packages=True)
    given = _Client.submitted.pop()
    assert given["entrypoint"].endswith("train start --equipment p --untracked")
    packages = given["runtime_env"]["uv"]["packages"]
    assert f"torch=={version('torch').partition('+')[0]}" in packages
    assert any(each.startswith("s3fs==") for each in packages)
    names = [each.partition("==")[0] for each in packages]
    assert not {"ray", "hydraulic-diagnostics", "pytest"} & set(names)
    RuntimeEnv(**given["runtime_env"])  # Ray's own check
    assert "no run is recorded: set MLFLOW_TRACKING_URI" in capsys.readouterr().out


def test_package_that_is_missing_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_torch(name: str) -> Distribution:
        if name == "torch":
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr("train.jobs.environment.distribution", without_torch)
    with pytest.raises(InputError, match=r"expected 'torch' in this environment, .* 'train'"):
        pinned_packages()


def test_address_where_no_cluster_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", "/shared")
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=f"dashboard answers at '{address}'"):
        submit(address, ["--equipment", "press-1"])
