"""The end of the whole system, after all tests that use it: it must be the last of them by its name."""

import time

import pytest

from tests.system import STOP_TIMEOUT_S, System, processes_of, stop

pytestmark = pytest.mark.system


def test_ctrl_c_leaves_no_process_behind(system: System):
    assert len(system.processes()) > 5
    stop(system.process)
    give_up = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < give_up and processes_of(system.var_dir):
        time.sleep(0.2)
    assert [item.cmdline() for item in processes_of(system.var_dir)] == []
