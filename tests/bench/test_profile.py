"""Samples count for the library of the innermost function."""

import pytest

from app.core.settings import PROJECT_DIR
from tests.bench.profile import libraries, library_of


@pytest.mark.parametrize(
    ("frame", "library"),
    [
        ("execute (/somewhere/lib/python3.11/site-packages/asyncpg/connection.py:350)", "asyncpg"),
        (
            "send (/somewhere/lib/python3.11/site-packages/ray/serve/_private/router.py:9)",
            "ray.serve",
        ),
        ("get (/somewhere/lib/python3.11/site-packages/six.py:9)", "six"),
        (f"build ({PROJECT_DIR}/app/diagnosis/build.py:154)", "app.diagnosis.build"),
        (f"enter ({PROJECT_DIR}/app/serving/ingress/micro_batcher.py:90)", "app.serving.ingress"),
        ("_run_once (/somewhere/lib/python3.11/asyncio/base_events.py:1900)", "asyncio"),
        ("dumps (/somewhere/lib/python3.11/json/__init__.py:1)", "python"),
        ("<module> (<string>:1)", "python"),
        ('process 12:"ray::ServeReplica"', "python"),
    ],
)
def test_library_of_a_frame(frame: str, library: str) -> None:
    assert library_of(frame) == library


def test_shares_are_of_all_samples_and_rare_libraries_are_other() -> None:
    outer = f"serve ({PROJECT_DIR}/app/main.py:1)"
    inner = "fetch (/x/site-packages/asyncpg/pool.py:1)"
    rare = "once (/x/site-packages/six.py:1)"
    shares = libraries([f"{outer};{inner} 697", f"{outer} 300", f"{outer};{rare} 3"])
    assert shares == pytest.approx({"asyncpg": 0.697, "app.main": 0.3, "other": 0.003})
    assert libraries([]) == {}
