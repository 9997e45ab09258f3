"""The packages of this environment that a job needs, for nodes that do not have them.

Ray's cluster keeps its own Ray; all else has the versions that are installed here.
"""

from collections import deque
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app.core.errors import InputError

PROJECT = "hydraulic-diagnostics"
RAY = "ray"


def pinned_packages(extra: str = "train") -> list[str]:
    """Return `name==version` of each package that the project needs with an extra, by name.

    Raises:
        InputError: one of them is not installed here.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    pending = deque([Requirement(f"{PROJECT}[{extra}]")])
    while pending:
        wanted = pending.popleft()
        name = canonicalize_name(wanted.name)
        try:
            about = distribution(name)
        except PackageNotFoundError as error:
            raise InputError(
                f"expected '{name}' in this environment, whose packages the job gets, found none: "
                f"install the extra '{extra}' here",
                "ship_packages",
            ) from error
        if name not in (PROJECT, RAY):
            found[name] = f"{name}=={Version(about.version).public}"
        for each in {"", *wanted.extras} - {chosen for one, chosen in seen if one == name}:
            seen.add((name, each))
            for line in about.requires or ():
                needed = Requirement(line)
                if _is_needed(needed, each):
                    pending.append(needed)
    return [found[name] for name in sorted(found)]


def _is_needed(needed: Requirement, extra: str) -> bool:
    """Return whether a requirement is one of an extra here; `""`: of no extra."""
    if needed.marker is None:
        return not extra
    is_of_none = needed.marker.evaluate({"extra": ""})
    return is_of_none if not extra else not is_of_none and needed.marker.evaluate({"extra": extra})
