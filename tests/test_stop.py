"""Ends the whole system; the last of the tests that use it, by its name."""

import pytest

from tests.system import STOP_TIMEOUT_S, System, processes_of, stop
from tests.waiting import wait_until

pytestmark = pytest.mark.system


def test_ctrl_c_leaves_no_process_behind(system: System):
    assert len(system.processes()) > 5
    stop(system.process)
    wait_until(lambda: not processes_of(system.var_dir), "no process", STOP_TIMEOUT_S)
