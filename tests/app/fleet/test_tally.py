from datetime import UTC, datetime

from app.fleet.scorer import Outcome
from app.fleet.tally import MAX_REASONS, OTHER_REASONS, Tally, summary_text

AT = datetime(2025, 1, 1, tzinfo=UTC)


def test_outcomes_are_counted_and_failures_grouped():
    tally = Tally(10)
    tally.add([Outcome("a", "ok", "1", compute_s=0.25), Outcome("c", "known")], 1.0)
    tally.add([Outcome("b", "insufficient_evidence", "2", compute_s=0.25)], 2.0)
    tally.add([Outcome(f"d{number}", "failed", "1", "no readings") for number in range(7)], 3.0)

    summary = tally.summary("nightly", AT, workers=2, seconds=3.0)

    assert (
        summary.machines,
        summary.ok,
        summary.insufficient_evidence,
        summary.failed,
        summary.known,
    ) == (
        10,
        1,
        1,
        7,
        1,
    )
    assert summary.versions == {"1": 1, "2": 1}
    assert (summary.start_s, summary.machines_per_s) == (1.0, 4.0)
    assert summary.compute_s == 0.5
    assert [(item.reason, item.machines, item.examples) for item in summary.failures] == [
        ("no readings", 7, ("d0", "d1", "d2", "d3", "d4"))
    ]
    assert summary_text(summary) == (
        "run nightly: 10 machines at 2025-01-01T00:00:00+00:00: 1 ok, 1 with insufficient "
        "evidence, 7 failed, 1 scored before\n"
        "3.0 s with 2 workers (1.0 s to start them), 4 machines/s; machines by version: 1: 1, "
        "2: 1\n"
        "failed, 7 machines (d0, d1, d2, d3, d4 ...): no readings"
    )


def test_reasons_are_bounded():
    tally = Tally(1)
    for number in range(MAX_REASONS + 5):
        tally.add([Outcome("x", "failed", reason=f"reason {number}")], 1.0)

    failures = tally.summary("r", AT, 1, 1.0).failures

    assert len(failures) == MAX_REASONS + 1
    assert (failures[0].reason, failures[0].machines) == (OTHER_REASONS, 5)


def test_progress_shows_rate_and_time_left():
    tally = Tally(1000)
    assert tally.progress(0.0) == "0/1000 machines, 0 machines/s, 0 failed, ? left"
    tally.add([Outcome("x", "ok", "1")] * 100, 10.0)
    assert tally.progress(10.0) == "100/1000 machines, 10 machines/s, 0 failed, 1:30 left"
    tally.add([Outcome("x", "ok", "1")] * 100, 12.0)
    assert tally.progress(12.0) == "200/1000 machines, 50 machines/s, 0 failed, 0:16 left"
    tally = Tally(72_010)
    tally.add([Outcome("x", "ok", "1")] * 10, 1.0)
    assert tally.progress(1.0).endswith("2:00:00 left")
