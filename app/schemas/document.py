"""Reads the text of a topology into plain values: JSON, or YAML without what can hide or multiply content.

Aliases are refused, since a few hundred bytes of them expand to any amount of memory; so are keys that stand twice,
since one of the two would be dropped silently. It knows no schema.
Invariant: whatever the text, the result is plain values or a `TopologyError`.
"""

import json
from collections.abc import Hashable
from typing import Any

import yaml

from app.errors import TopologyError


def read_document(text: str | bytes, where: str) -> object:
    """Parse JSON or YAML.

    Args:
        text: the document; bytes are UTF-8 or UTF-16.
        where: the name of the source, for messages.

    Returns:
        What the document holds: mappings, lists, strings, numbers, booleans, dates and None.

    Raises:
        TopologyError: the text does not parse, repeats a key, has an alias, or nests too deep.
    """
    try:
        try:
            # tabs between tokens are JSON and not YAML, so JSON comes first
            return json.loads(text, object_pairs_hook=_unique)
        except _RepeatedKey:
            raise
        except ValueError:
            return yaml.load(text, Loader=_TopologyLoader)  # noqa: S506, a subclass of SafeLoader
    except RecursionError as error:
        raise TopologyError(
            where, (("", "expected a topology, found values nested too deep to read: flatten them"),)
        ) from error
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise TopologyError(
            where, (("", f"expected YAML or JSON, found text that does not parse: {reason}"),)
        ) from error


class _RepeatedKey(ValueError):
    """A key stands twice in one JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise _RepeatedKey(f"found key {repeated!r} twice in one object: keep one of them")
    return found


class _TopologyLoader(yaml.SafeLoader):
    """YAML's safe loader without aliases and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"found alias *{event.anchor}: write out what it stands for", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"found key '{key.value}' twice in one mapping: keep one of them",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
