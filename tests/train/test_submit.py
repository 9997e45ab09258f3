"""What goes with a job to a cluster, and what is said when there is none."""

import pytest

from app.errors import InputError
from tests.system import free_port
from train.submit import job_environment, submit


def test_database_travels_as_a_variable_and_local_matters_stay() -> None:
    here = {
        "HYDRAULIC_DSN": "old",
        "HYDRAULIC_VAR_DIR": "/here",
        "HYDRAULIC_API_KEY": "k",
        "HYDRAULIC_LOG_LEVEL": "INFO",
        "HOME": "/",
    }
    found = job_environment(here, "new")
    assert found == {"HYDRAULIC_DSN": "new", "HYDRAULIC_LOG_LEVEL": "INFO", "PYTHONUNBUFFERED": "1"}
    assert job_environment(here, None)["HYDRAULIC_DSN"] == "old"


def test_address_where_no_cluster_answers_is_named() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=f"dashboard answers at '{address}'"):
        submit(address, ["--equipment", "press-1"])
