"""The environment of a job on a cluster, and the error without a cluster."""

from pathlib import Path

import pytest

from app.core.errors import InputError
from tests.system import free_port
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


@pytest.mark.parametrize("here", [{}, {"HYDRAULIC_VAR_DIR": ""}])
def test_job_without_a_shared_directory_is_refused(here: dict[str, str]) -> None:
    with pytest.raises(
        InputError,
        match=r"expected HYDRAULIC_VAR_DIR to name a directory that all nodes .* share, found none",
    ):
        job_environment(here, None, "0abc")


def test_address_where_no_cluster_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", "/shared")
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=f"dashboard answers at '{address}'"):
        submit(address, ["--equipment", "press-1"])
