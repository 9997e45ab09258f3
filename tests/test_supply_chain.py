"""The bill of materials is whole, and an audit that did not happen is no audit."""

import json
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.supply_chain import CONSTRAINTS, NOT_AUDITED, VULNERABLE, audit, judged, write_sbom
from tests.system import PROJECT_DIR


def installed_here() -> list[metadata.Distribution]:
    """Return the packages of the environment, without those that Ray carries inside its own."""
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return list(metadata.distributions(path=sorted(paths)))


def test_bill_of_materials_has_each_installed_package(tmp_path: Path):
    path = tmp_path / "sbom.json"
    write_sbom(path)
    bill = json.loads(path.read_text())
    assert (bill["bomFormat"], bill["specVersion"] >= "1.5") == ("CycloneDX", True)
    assert bill["metadata"]["component"]["name"] == "hydraulic-diagnostics"
    components = {canonicalize_name(each["name"]): each for each in bill["components"]}
    installed = {
        canonicalize_name(each.metadata["Name"]): each.version for each in installed_here()
    }
    del installed["hydraulic-diagnostics"]
    assert {name: each["version"] for name, each in components.items()} == installed
    assert all(each["purl"].startswith("pkg:pypi/") for each in components.values())
    assert components["asyncpg"]["licenses"]
    assert len(bill["dependencies"]) > len(components)


def test_each_installed_package_is_pinned():
    pinned = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", CONSTRAINTS.read_text(), re.MULTILINE)
    }
    own = {"hydraulic-diagnostics", "pip", "setuptools"}
    different = {
        each.metadata["Name"]: each.version
        for each in installed_here()
        if (name := canonicalize_name(each.metadata["Name"])) not in own
        # a version may be written v0.0.21
        and pinned.get(name) != Version(each.version).public
    }
    assert different == {}


@pytest.mark.parametrize(
    ("dependencies", "status", "text"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "no known vulnerability in 1"),
        (
            [
                {"name": "a", "skip_reason": "not found on PyPI"},
                {"name": "b", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]},
            ],
            VULNERABLE,
            "b 1: CVE-1, mended in 2",
        ),
        ([{"name": "a", "skip_reason": "not found on PyPI"}], NOT_AUDITED, "NOT AUDITED"),
        ([], NOT_AUDITED, "NOT AUDITED"),
    ],
)
def test_audit_passes_only_when_all_was_looked_up(
    dependencies: list[dict[str, object]], status: int, text: str
):
    assert judged(dependencies)[0] == status
    assert text in judged(dependencies)[1]


def test_audit_without_a_network_says_so():
    fails = "import sys; print('ConnectionError: no route', file=sys.stderr); sys.exit(1)"
    status, text = audit([sys.executable, "-c", fails])
    assert (status, text.startswith("NOT AUDITED"), "no route" in text) == (NOT_AUDITED, True, True)


def test_make_has_the_targets_that_ci_runs():
    makefile = (PROJECT_DIR / "Makefile").read_text()
    assert re.search(r"^audit:.*\n\t.*supply_chain audit$", makefile, re.MULTILINE)
    assert re.search(r"^sbom:.*\n\t.*supply_chain sbom$", makefile, re.MULTILINE)
    ci = (PROJECT_DIR / ".ci/run").read_text()
    assert "make sbom" in ci
    assert f"supply_chain audit || (($? == {NOT_AUDITED}))" in ci
    subprocess.run(["bash", "-n", PROJECT_DIR / ".ci/run"], check=True)
