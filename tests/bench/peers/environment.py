"""Environment of the peers whose dependencies conflict with those of the project.

Its packages come first on the path and those of the project's environment after them, so that
torch, asyncpg and all measured code are the same files. It is rebuilt when `requirements.txt`
changes.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def peers_environment(directory: Path) -> Path:
    """Create the peers' environment unless it exists, and return its Python interpreter.

    Args:
        directory: parent of the environment's directory.
    """
    place = directory / "peers"
    python, stamp = place / "bin" / "python", place / "requirements.txt"
    if stamp.is_file() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return python
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run(
        [
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--requirement", REQUIREMENTS),
        ],
        check=True,
    )
    project = sysconfig.get_path("purelib")
    (
        place / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix) / "project.pth"
    ).write_text(project + "\n")
    shutil.copy(REQUIREMENTS, stamp)
    return python
