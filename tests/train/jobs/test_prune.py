"""Which artifacts of training are pruned, and the command."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.main import main
from app.core.file_locks import attempt
from tests.small import graded_windows
from tests.train.jobs.test_artifacts import DIGEST, JOB, PARTIAL, SEARCH, aged, written
from train.data.artifact_locks import SEARCH_LOCK, WINDOWS_NAME, in_use, job_lock
from train.data.windows import BEGUN, HEAD, open_windows
from train.jobs.artifacts import IN_USE, Artifact, Kind
from train.jobs.prune import MOMENT, judge

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAYS_30 = timedelta(days=30)


def left(name: str, kind: Kind, days: float, busy: str = "", windows: str = "") -> Artifact:
    """Return an artifact with its last change so many days ago."""
    return Artifact(name, kind, 1, NOW - timedelta(days=days), busy, windows)


def gone(*found: Artifact, days: float = 30) -> list[str]:
    return [
        each.artifact.name for each in judge(found, NOW, timedelta(days=days)) if each.is_removed
    ]


@pytest.mark.parametrize("kind", [Kind.WINDOWS, Kind.UNFINISHED, Kind.FITS, Kind.SEARCH])
def test_artifact_is_removed_from_the_day_on(kind: Kind) -> None:
    assert gone(left("a", kind, 30), left("b", kind, 29.999)) == ["a"]
    assert gone(left("a", kind, 0.001), days=0) == ["a"]


@pytest.mark.parametrize("days", [0, 30])
def test_what_is_in_use_stays_whatever_its_age(days: int) -> None:
    assert (
        gone(
            *(left(kind, kind, 400, IN_USE) for kind in Kind if kind is not Kind.CUT_OFF), days=days
        )
        == []
    )


def test_unknown_stays_and_half_removed_is_removed_at_any_age() -> None:
    assert gone(left("a", Kind.UNKNOWN, 400), left("b", Kind.CUT_OFF, 0)) == ["b"]


def test_windows_stay_while_their_fits_are_used() -> None:
    windows, others = left("w", Kind.WINDOWS, 90), left("v", Kind.WINDOWS, 90)
    assert gone(windows, others, left("jobs/a", Kind.FITS, 3, windows="w")) == ["v"]
    assert gone(windows, others, left("jobs/a", Kind.FITS, 31, windows="w")) == ["w", "v", "jobs/a"]
    assert gone(windows, others, left("jobs/a", Kind.FITS, 90, IN_USE, windows="w"), days=0) == [
        "v"
    ]
    (verdict, *_) = judge([windows, left("jobs/a", Kind.FITS, 3, windows="w")], NOW, DAYS_30)
    assert verdict.why == "last used 2026-05-29 00:00Z by jobs/a"


def test_running_fits_without_a_name_keep_all_windows() -> None:
    found = [
        left("w", Kind.WINDOWS, 90),
        left("jobs/a", Kind.FITS, 90, IN_USE),
        left("jobs/b", Kind.FITS, 90),
    ]
    assert gone(*found) == ["jobs/b"]


def test_preparation_that_has_just_begun_stays() -> None:
    moment = MOMENT / timedelta(days=1)
    assert gone(
        left("a", Kind.UNFINISHED, 0.9 * moment), left("b", Kind.UNFINISHED, moment), days=0
    ) == ["b"]


def test_artifact_marked_by_a_clock_ahead_stays() -> None:
    assert gone(left("a", Kind.WINDOWS, -1), days=0) == []


ARTIFACTS = st.lists(
    st.builds(
        left,
        st.sampled_from("abcd"),
        st.sampled_from(Kind),
        st.floats(-1, 100),
        st.sampled_from(["", IN_USE]),
        st.sampled_from(["", "a", "b"]),
    ),
    max_size=6,
)


@given(ARTIFACTS, st.integers(0, 60), st.integers(0, 60))
def test_more_days_never_remove_more_and_recent_artifacts_stay(
    found: list[Artifact], days: int, more: int
) -> None:
    few, many = (judge(found, NOW, timedelta(days=each)) for each in (days, days + more))
    assert [verdict.artifact for verdict in few] == found
    for verdict, later in zip(few, many, strict=True):
        assert verdict.is_removed or not later.is_removed
        if verdict.is_removed and verdict.artifact.kind is not Kind.CUT_OFF:
            assert NOW - verdict.artifact.changed >= timedelta(days=days)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Windows, their fits, a search, unfinished windows and an unknown file, all 60 days old."""
    directory = tmp_path / "training"
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path))
    graded_windows(directory / DIGEST)
    written(directory / PARTIAL / BEGUN, "")
    written(directory / "jobs" / JOB / "all" / "checkpoint_1" / "state.json")
    written(directory / "jobs" / JOB / WINDOWS_NAME, DIGEST)
    written(job_lock(directory / "jobs" / JOB), "")
    written(directory / "tune" / SEARCH / "tuner.pkl")
    written(directory / "tune" / SEARCH_LOCK, "")
    written(directory / "notes.txt")
    aged(directory, datetime.now(UTC) - timedelta(days=60))
    return directory


def names(training: Path) -> set[str]:
    """Return the artifacts that still exist."""
    all_of_it = (DIGEST, PARTIAL, f"jobs/{JOB}", f"tune/{SEARCH}", "notes.txt")
    return {name for name in all_of_it if (training / name).exists()}


def test_artifacts_unused_for_30_days_are_removed_and_unknown_ones_stay(
    training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "prune"]) == 0
    assert names(training) == {"notes.txt"}
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["ignored", *["removed"] * 5]
    assert any(line.startswith("ignored   unknown") and "notes.txt" in line for line in lines)
    assert lines[-1].startswith(f"removed 4 of 4 in {training}, ")
    assert lines[-1].endswith("; 1 unknown")


def test_dry_run_prints_the_same_and_changes_nothing(
    training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in training.rglob("*")}
    assert main(["train", "prune", "--dry-run"]) == 0
    assert {path: path.stat().st_mtime_ns for path in training.rglob("*")} == before
    dry = capsys.readouterr().out
    assert main(["train", "prune"]) == 0
    assert capsys.readouterr().out == dry.replace("would go", "removed ").replace(
        "would remove", "removed"
    )


def test_artifacts_used_within_the_days_stay(training: Path) -> None:
    assert main(["train", "prune", "--days", "61"]) == 0
    assert len(names(training)) == 5


def test_windows_prepared_long_ago_and_opened_today_stay(training: Path) -> None:
    with in_use(training / DIGEST / HEAD):  # as `train.data.prepare` does, see its test
        pass
    assert main(["train", "prune"]) == 0
    assert names(training) == {DIGEST, "notes.txt"}
    assert len(open_windows(training / DIGEST)) == 60


def test_training_of_many_days_keeps_its_windows_by_its_last_epoch(training: Path) -> None:
    os.utime(training / "jobs" / JOB / "all" / "checkpoint_1" / "state.json")
    assert main(["train", "prune"]) == 0
    assert names(training) == {DIGEST, f"jobs/{JOB}", "notes.txt"}


def test_zero_days_keep_artifacts_in_use(
    training: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with attempt(job_lock(training / "jobs" / JOB)) as is_locked:
        assert is_locked
        aged(training, datetime.now(UTC) - timedelta(days=60))
        assert main(["train", "prune", "--days", "0"]) == 0
    assert names(training) == {DIGEST, f"jobs/{JOB}", "notes.txt"}
    assert f"in use by jobs/{JOB}" in capsys.readouterr().out
    assert main(["train", "prune", "--days", "0"]) == 0
    assert names(training) == {"notes.txt"}


def test_missing_directory_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path))
    assert main(["train", "prune"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'training'} does not exist\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("days", ["-1", "many", "0.5", "", "36501", "٣"])
def test_invalid_days_are_refused_and_nothing_is_removed(
    training: Path, capsys: pytest.CaptureFixture[str], days: str
) -> None:
    assert main(["train", "prune", f"--days={days}"]) == 1
    assert (
        f"error: expected --days as a whole number from 0 to 36500, found '{days}': give"
        in capsys.readouterr().err
    )
    assert len(names(training)) == 5


def test_file_instead_of_the_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "training")
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path))
    assert main(["train", "prune"]) == 1
    assert "set HYDRAULIC_VAR_DIR to where training writes its files" in capsys.readouterr().err


def test_failed_removal_is_reported_and_the_rest_is_removed(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shutil.rmtree

    def refused(path: Path) -> None:
        if DIGEST in path.name:
            raise PermissionError(13, "Permission denied", str(path))
        real(path)

    monkeypatch.setattr(shutil, "rmtree", refused)
    assert main(["train", "prune"]) == 1
    printed = capsys.readouterr()
    assert (
        f"error: expected to be able to remove '{training / DIGEST}', found Permission denied"
        in printed.err
    )
    assert "removed 3 of 4" in printed.out
    assert names(training) == {"notes.txt"}


def test_interrupted_command_says_that_it_can_be_repeated(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted)
        assert main(["train", "prune"]) == 130
    assert "the same command removes the rest" in capsys.readouterr().err
    assert main(["train", "prune"]) == 0
    assert {path.name for path in training.iterdir()} == {"jobs", "tune", "notes.txt"}
