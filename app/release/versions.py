"""A registered version as the registry tells it, and in a line for people.

Invariant: it knows no registry.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple


class Registered(NamedTuple):
    """A registered version."""

    version: str
    created: datetime
    aliases: tuple[str, ...]
    run_id: str
    tags: Mapping[str, str]


def described(item: Registered) -> str:
    """Return a registered version in a line: its names, where it comes from and how well it did."""
    tags = item.tags
    figures = [
        f"{name.removeprefix('metrics.')} {tags[name]}"
        for name in sorted(tags)
        if name.endswith("macro_f1")
    ]
    figures += [f"{name} {tags[name]}" for name in sorted(tags) if name.startswith("reference.")]
    return (
        f"{item.version}\t{','.join(item.aliases) or '-'}\t{item.created:%Y-%m-%d %H:%M}Z\t{tags.get('designs', '')}\t"
        f"data {tags.get('data_start', '?')[:10]}..{tags.get('data_end', '?')[:10]}\trevision {tags.get('git_revision', '?')[:12]}\t"
        f"run {item.run_id or '-'}\t{'; '.join(figures)}"
    )
