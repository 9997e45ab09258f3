"""The peers' own environment, for those whose dependencies clash with ours.

Its packages stand before ours, and ours underneath: so torch, asyncpg and all that is measured are
the same files.
Invariant: what `requirements.txt` pins is what is installed; a changed file makes the environment
anew.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def peers_environment(directory: Path) -> Path:
    """Return the Python of the peers' environment, made if it is not there.

    Args:
        directory: where it stands.
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
    ours = sysconfig.get_path("purelib")
    (place / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix) / "ours.pth").write_text(
        ours + "\n"
    )
    shutil.copy(REQUIREMENTS, stamp)
    return python
