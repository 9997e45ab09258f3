"""A search: trials in processes of their own, the best first."""

from pathlib import Path

import pytest

from tests.small import graded_windows
from tests.train.fit_alone import CONFIG
from train.tune import SPACE, main, search


def test_search_gives_every_trial_with_the_best_first(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path, 20)
    tried = search(windows, CONFIG.model_copy(update={"epochs": 2, "heads": 4, "hidden": 16}), trials=2, at_once=1)
    assert len(tried) == 2
    assert tried[0][0] >= tried[1][0]
    for _, epochs, chosen in tried:
        assert epochs in (1, 2)
        assert set(chosen) == set(SPACE)


def test_search_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--trials", "2"])
    assert "one of the arguments --equipment --design is required" in capsys.readouterr().err
