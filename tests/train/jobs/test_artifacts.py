"""Artifacts of training are listed and removed, on a real file system."""

import os
import shutil
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.core.errors import InputError
from app.core.file_locks import attempt
from tests.small import graded_windows
from tests.train.fit_alone import CONFIG
from train.data.artifact_locks import SEARCH_LOCK, WINDOWS_NAME, exclusive, in_use, job_lock
from train.data.fleet import Fleet
from train.data.windows import BEGUN, HEAD, open_windows
from train.fitting.fit import Fitted
from train.fitting.progress import Progress
from train.jobs import job as training_job
from train.jobs.artifacts import IN_USE, Kind, remove, survey
from train.jobs.job import Job, run_job, storage_of

DIGEST, OTHER, JOB = "0e93c2efd0ce6e25", "1e93c2efd0ce6e25", "a4db169e953b3ee9"
PARTIAL = f"{OTHER}.0a1b2c3d.partial"
SEARCH = "_try_2026-11-22_19-51-13"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def written(path: Path, text: str = "1234") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def aged(path: Path, when: datetime = LONG_AGO) -> None:
    """Set the time of the last change in a whole tree."""
    for each in [*sorted(path.rglob("*"), reverse=True), path]:
        os.utime(each, (when.timestamp(), when.timestamp()), follow_symlinks=False)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """One artifact of each kind, long unused."""
    directory = tmp_path / "var" / "training"
    graded_windows(directory / DIGEST)
    written(directory / PARTIAL / "windows-000000.parquet")
    written(directory / PARTIAL / BEGUN, "")
    written(directory / "jobs" / JOB / "fold-1-2" / "checkpoint_1" / "state.json")
    written(directory / "jobs" / JOB / WINDOWS_NAME, DIGEST)
    written(directory / "jobs" / f"{JOB}.lock", "")
    written(directory / "tune" / SEARCH / "tuner.pkl")
    written(directory / "tune" / SEARCH_LOCK, "")
    aged(directory)
    return directory


def test_all_artifacts_are_listed_with_size_and_last_change(training: Path) -> None:
    found = {each.name: each for each in survey(training)}
    assert {name: each.kind for name, each in found.items()} == {
        DIGEST: Kind.WINDOWS,
        PARTIAL: Kind.UNFINISHED,
        f"jobs/{JOB}": Kind.FITS,
        f"tune/{SEARCH}": Kind.SEARCH,
    }
    assert found[f"jobs/{JOB}"].windows == DIGEST
    assert found[f"jobs/{JOB}"].size == 4 + len(DIGEST)
    assert found[DIGEST].size == sum(path.stat().st_size for path in (training / DIGEST).iterdir())
    assert {each.changed for each in found.values()} == {LONG_AGO}
    assert {each.busy for each in found.values()} == {""}


def test_newest_change_counts_wherever_it_is(training: Path) -> None:
    now = LONG_AGO + timedelta(days=7)
    state = training / "jobs" / JOB / "fold-1-2" / "checkpoint_1" / "state.json"
    os.utime(state, (now.timestamp(), now.timestamp()))
    assert {each.name: each.changed for each in survey(training)}[f"jobs/{JOB}"] == now


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",  # a file
        "0E93C2EFD0CE6E25",  # not a digest as training writes it
        "0e93c2efd0ce6e250",
        OTHER,  # a digest, but nothing that a preparation finished
        f"{DIGEST}.partial",
        f"{DIGEST}.0a1b2c3d.removed",
        f"jobs/{JOB}.bak",
        f"jobs/{OTHER}.0a1b2c3d.partial",
        "jobs/mine.lock",
        "tune/best",
        f"tune/{DIGEST}",
    ],
)
def test_other_names_are_unknown(training: Path, name: str) -> None:
    written(
        training / name / "content"
        if name != "notes.txt" and not name.endswith(".lock")
        else training / name
    )
    assert {each.name: each.kind for each in survey(training)}[name] is Kind.UNKNOWN


def test_links_are_unknown_and_not_followed(training: Path, tmp_path: Path) -> None:
    for name, parent in ((DIGEST, ""), (JOB, "jobs")):
        elsewhere = tmp_path / name
        (training / parent / name).rename(elsewhere)
        (training / parent / name).symlink_to(elsewhere)
    (training / "tune").rename(tmp_path / "tune")
    (training / "tune").symlink_to(tmp_path / "tune")
    found = {each.name: each for each in survey(training)}
    for name in (DIGEST, f"jobs/{JOB}", "tune"):
        assert found[name].kind is Kind.UNKNOWN
        assert found[name].size < 200
    assert f"tune/{SEARCH}" not in found


def test_link_in_the_place_of_a_lock_is_not_followed(training: Path, tmp_path: Path) -> None:
    job_lock(training / "jobs" / JOB).unlink()
    job_lock(training / "jobs" / JOB).symlink_to(tmp_path / "elsewhere")
    assert {each.name: each.kind for each in survey(training)}[f"jobs/{JOB}"] is Kind.UNKNOWN
    assert not (tmp_path / "elsewhere").exists()


def test_removal_leaves_locks_and_targets_of_links(training: Path, tmp_path: Path) -> None:
    kept = written(tmp_path / "elsewhere" / "kept")
    (training / DIGEST / "link").symlink_to(kept.parent)
    (training / "jobs" / JOB / "link").symlink_to(kept)
    for each in survey(training):
        assert remove(training, each) == ""
    left = sorted(str(path.relative_to(training)) for path in training.rglob("*") if path.is_file())
    assert left == [f"jobs/{JOB}.lock", f"tune/{SEARCH_LOCK}"]
    assert kept.read_text() == "1234"


def test_survey_changes_nothing(training: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in training.rglob("*")}
    survey(training)
    assert {path: path.stat().st_mtime_ns for path in training.rglob("*")} == before


@pytest.mark.parametrize("name", [DIGEST, PARTIAL, f"jobs/{JOB}", f"tune/{SEARCH}"])
def test_what_is_in_use_stays(training: Path, name: str) -> None:
    before = {each.name: each for each in survey(training)}[name]
    holds = {
        DIGEST: in_use(training / DIGEST / HEAD),
        PARTIAL: in_use(training / PARTIAL / BEGUN),
        f"jobs/{JOB}": attempt(training / "jobs" / f"{JOB}.lock"),
        f"tune/{SEARCH}": in_use(training / "tune" / SEARCH_LOCK),
    }
    with holds[name] as is_held:
        assert is_held
        aged(training)  # else the mark would keep it
        assert [each.name for each in survey(training) if each.busy == IN_USE] == [name]
        assert remove(training, before) == IN_USE
    aged(training)
    assert (training / name).exists()
    assert remove(training, before) == ""
    assert not (training / name).exists()


def test_preparation_that_was_killed_before_its_rename_is_locked_by_its_head(
    training: Path,
) -> None:
    (training / PARTIAL / BEGUN).rename(training / PARTIAL / HEAD)
    with in_use(training / PARTIAL / HEAD):
        assert {each.name: each.busy for each in survey(training)}[PARTIAL] == IN_USE


def test_artifact_that_was_used_since_the_survey_stays(training: Path) -> None:
    before = {each.name: each for each in survey(training)}
    with in_use(training / DIGEST / HEAD):
        open_windows(training / DIGEST)
    assert remove(training, before[DIGEST]) == "used meanwhile"
    assert len(open_windows(training / DIGEST)) == 60
    written(training / "jobs" / JOB / "all" / "notes.ndjson")
    assert remove(training, before[f"jobs/{JOB}"]) == "used meanwhile"


def test_interrupted_removal_leaves_no_used_name(
    training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", _killed)
        for each in survey(training):
            with pytest.raises(KeyboardInterrupt):
                remove(training, each)
    with in_use(training / DIGEST / HEAD) as is_there:
        assert not is_there
    assert not (training / "jobs" / JOB).exists()
    found = survey(training)
    assert [each.kind for each in found] == [Kind.CUT_OFF] * 4
    for each in found:
        assert remove(training, each) == ""
    assert not survey(training)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_artifact_removed_by_another_process_is_no_error(training: Path) -> None:
    found = survey(training)
    for each in found:
        assert remove(training, each) == ""
    for each in found:
        assert remove(training, each) == ""


def test_running_training_is_in_use_and_names_its_windows_and_a_killed_one_is_not(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet((open_windows(training / DIGEST),))
    config = CONFIG.model_copy(update={"folds": 2})
    storage = storage_of(training / "jobs", fleet, config)
    at_work = []

    def fit(*_: object) -> Fitted:
        at_work.extend(survey(training))
        raise KeyboardInterrupt

    monkeypatch.setattr(training_job, "run_fit", fit)
    with pytest.raises(KeyboardInterrupt):
        run_job(
            Job(fleet, config, tmp_path / "out", "1", "train", storage),
            Progress(is_terminal=False),
        )
    found = {each.name: each for each in at_work}[f"jobs/{storage.name}"]
    assert (found.kind, found.busy, found.windows) == (Kind.FITS, IN_USE, DIGEST)
    killed = {each.name: each for each in survey(training)}[f"jobs/{storage.name}"]
    assert (killed.busy, killed.windows) == ("", DIGEST)
    aged(storage)
    with pytest.raises(KeyboardInterrupt):
        run_job(
            Job(fleet, config, tmp_path / "out", "1", "train", storage),
            Progress(is_terminal=False),
        )
    assert {each.name: each for each in survey(training)}[f"jobs/{storage.name}"].changed > LONG_AGO


def test_training_waits_while_the_survey_locks_it(
    training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_job, "run_fit", _killed)
    fleet, storage = Fleet((open_windows(training / DIGEST),)), training / "jobs" / JOB
    job = Job(fleet, CONFIG, training / "out", "1", "train", storage)
    with ExitStack() as looking:
        assert looking.enter_context(exclusive(job_lock(storage)))
        over = threading.Timer(0.2, looking.close)
        over.start()
        with pytest.raises(KeyboardInterrupt):  # of its first fit
            run_job(job, Progress(is_terminal=False))
        over.join()


def test_file_instead_of_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"expected a readable directory of trainings in .*, found Not a directory at",
    ):
        survey(written(tmp_path / "training"))
