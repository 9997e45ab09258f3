"""Programs of Debian packages that tests need, such as promtool; apt-get installs them by name."""

import os
import shutil
import subprocess

import pytest

PACKAGE = "prometheus"
"""Has `promtool` too."""


def installed(program: str, package: str = PACKAGE) -> str:
    """Return the path of a program of a package, which is installed if it can be.

    A service of the package is not started. Where neither the program is there nor apt-get can
    install it, the test fails in continuous integration, and is skipped with the reason elsewhere.
    """
    found = shutil.which(program)
    if found is not None:
        return found
    reason = _install(package)
    found = shutil.which(program)
    if found is not None:
        return found
    message = (
        f"expected {program} of the Debian package '{package}', found none: install it with "
        f"`apt-get install --yes {package}` ({reason})"
    )
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _install(package: str) -> str:
    """Install the package; return why that failed."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return "there is no apt-get, or this user is not root"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    # another worker of the tests may be installing too
    command = [apt, "-o", "DPkg::Lock::Timeout=300", "install", "--yes"]
    command += ["--no-install-recommends", package]
    update = subprocess.run(
        [apt, "update"], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    return (done.stderr or update.stderr).strip()[-300:]
