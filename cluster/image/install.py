"""Makes what the project's files need in an image: `install.py`, in the tools' Python of the build.

- `site/`: the hook that puts the project on Python's path and applies Ray's settings, and the
  project's metadata, which `hydraulic doctor` reads.
- `bin/hydraulic`: the command.
- `sbom.json`: the bill of materials (CycloneDX) of the environment, of CPython and, where the base
  is Debian, of its packages.
- Compiled Python beside the sources, since the root file system may be read-only.
"""

import compileall
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any
from urllib.parse import quote

PROJECT = Path(__file__).resolve().parents[2]
HOME = Path("/opt/hydraulic")
"""Directory of the project in the image."""
PYTHON = HOME / "venv/bin/python"
HOOK = f"{HOME}\nimport cluster.ray_settings; cluster.ray_settings.apply()\n"
COMMAND = f"""#!{PYTHON}
import sys

from app.cli.main import main

sys.exit(main())
"""
_DPKG_FORMAT = "${Package}\\t${Version}\\t${Architecture}\\n"


def write_site(project: Path) -> None:
    """Write the hook, the project's metadata and the command."""
    from setuptools import build_meta

    site = project / "site"
    site.mkdir()
    (site / "hydraulic.pth").write_text(HOOK, encoding="utf-8")
    os.chdir(project)
    build_meta.prepare_metadata_for_build_wheel(str(site))
    for path in site.glob("*.egg-info"):  # it has the same once more
        shutil.rmtree(path)
    command = project / "bin/hydraulic"
    command.parent.mkdir()
    command.write_text(COMMAND, encoding="utf-8")
    command.chmod(0o755)


def debian_components(listed: str, release: str) -> list[dict[str, Any]]:
    """Return the components of Debian's packages.

    Args:
        listed: package, version and architecture a line, separated by tabs.
        release: number of Debian's release.
    """
    return [
        {
            "type": "library",
            "bom-ref": f"deb-{name}-{architecture}",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{quote(name)}@{quote(version)}"
            f"?arch={architecture}&distro=debian-{release}",
        }
        for name, version, architecture in (line.split("\t") for line in listed.splitlines())
    ]


def write_sbom(project: Path) -> None:
    """Write the bill of materials of the image.

    Raises:
        CalledProcessError: an installed package does not describe itself.
    """
    path = project / "sbom.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(PYTHON)]
    command += ["--pyproject", str(project / "pyproject.toml"), "--output-reproducible"]
    command += ["--output-format", "JSON", "--output-file", str(path)]
    subprocess.run(command, check=True)
    bill = json.loads(path.read_text(encoding="utf-8"))
    bill["components"].append(
        {
            "type": "platform",
            "bom-ref": "cpython",
            "name": "cpython",
            "version": platform.python_version(),
            "purl": f"pkg:generic/cpython@{platform.python_version()}",
        }
    )
    if Path("/var/lib/dpkg/status").exists():
        listed = subprocess.run(
            ["dpkg-query", "--show", f"--showformat={_DPKG_FORMAT}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        release = platform.freedesktop_os_release().get("VERSION_ID", "unknown")
        bill["components"] += debian_components(listed, release)
    path.write_text(json.dumps(bill, indent=1), encoding="utf-8")


def main() -> None:
    """Make all of it."""
    # first, while the environment has no other packages than those of the lock
    write_sbom(PROJECT)
    write_site(PROJECT)
    compiled = compileall.compile_dir(
        PROJECT,
        quiet=1,
        stripdir=str(PROJECT),
        prependdir=str(HOME),
        # the layers' times differ from those of the sources
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        raise SystemExit("expected sources that compile, found errors: see the lines above")


if __name__ == "__main__":
    main()
