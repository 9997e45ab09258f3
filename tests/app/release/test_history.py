"""Weights that a rollback finds in the release history."""

from datetime import UTC, datetime

from app.release.config.weights import Split
from app.release.history import split_before
from app.store.releases import ReleaseEvent


def events(*given: tuple[str, dict[str, float]], version: str = "2") -> list[ReleaseEvent]:
    """Return events, newest first, of (action, weights), oldest first."""
    made = [
        ReleaseEvent(
            release_id=number,
            released_at=datetime(2026, 1, 1, tzinfo=UTC),
            version=version,
            action=action,
            weights=weights,
            actor="ann",
            reason="",
        )
        for number, (action, weights) in enumerate(given)
    ]
    return made[::-1]


ALL, MOST, HALF, NONE = {"1": 100.0}, {"1": 90.0, "2": 10.0}, {"1": 50.0, "2": 50.0}, {"2": 100.0}


def test_weights_before_are_those_of_the_split_before():
    assert split_before(events(("found", ALL), ("split", MOST), ("split", HALF))) == Split(MOST)


def test_adding_and_removing_versions_is_no_step_back():
    assert split_before(
        events(("found", ALL), ("deploy", {**ALL, "2": 0.0}), ("split", HALF), ("retire", HALF))
    ) == Split(ALL)


def test_second_rollback_goes_one_further_back():
    history = [("found", ALL), ("split", MOST), ("split", HALF), ("rollback", MOST)]
    assert split_before(events(*history)) == Split(ALL)
    assert split_before(events(*history, ("rollback", ALL))) is None


def test_after_a_rollback_and_a_split_back_is_the_rollback():
    assert split_before(
        events(("found", ALL), ("split", HALF), ("rollback", ALL), ("split", MOST))
    ) == Split(ALL)


def test_promotion_in_steps_is_one_step_back():
    assert split_before(
        events(("found", ALL), ("step", MOST), ("step", HALF), ("promote", NONE))
    ) == Split(ALL)
    assert split_before(events(("found", ALL), ("split", MOST), ("step", HALF))) == Split(MOST)


def test_promotion_that_was_rolled_back_leaves_nothing_behind():
    history = events(
        ("found", ALL), ("split", MOST), ("step", HALF), ("step", NONE), ("rollback", MOST)
    )
    assert split_before(history) == Split(ALL)


def test_empty_history_has_no_weights_to_restore():
    assert split_before([]) is None
    assert split_before(events(("split", HALF))) is None


def test_shadow_events_are_ignored():
    history = [
        ("found", ALL),
        ("step", MOST),
        ("shadow", MOST),
        ("step", HALF),
        ("shadow off", HALF),
    ]
    assert split_before(events(*history)) == Split(ALL)
