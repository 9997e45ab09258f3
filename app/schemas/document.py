"""Reads the text of a topology into plain values: JSON, or YAML without what can hide or multiply content.

Aliases are refused, since a few hundred bytes of them expand to any amount of memory; so are keys that stand twice,
since one of the two would be dropped silently. YAML is bounded, since it takes a hundred times as long to read as JSON.
It knows no schema.
Invariant: whatever the text, the result is plain values or a `TopologyError`.
"""

import json
from collections.abc import Hashable
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from app.core.errors import TopologyError
from app.schemas.places import shown

MAX_YAML_BYTES = 256 * 1024
"""Largest YAML, bytes (of text: characters); JSON may be larger."""


def read_document(text: str | bytes, where: str) -> object:
    """Parse JSON or YAML.

    Args:
        text: the document; bytes are UTF-8 or UTF-16.
        where: the name of the source, for messages.

    Returns:
        What the document holds: mappings, lists, strings, numbers, booleans, dates and None.

    Raises:
        TopologyError: the text does not parse, repeats a key, has an alias, nests too deep, or is YAML beyond
            `MAX_YAML_BYTES`.
    """
    try:
        try:
            # tabs between tokens are JSON and not YAML, so JSON comes first
            return json.loads(text, object_pairs_hook=_unique)
        except _RepeatedKey:
            raise
        except ValueError as error:
            if len(text) > MAX_YAML_BYTES:
                raise TopologyError(
                    where,
                    (
                        (
                            "",
                            f"expected JSON, or YAML of at most {MAX_YAML_BYTES} bytes, found {len(text)} that are no JSON ({error})",
                        ),
                    ),
                ) from error
            return _TopologyLoader(text).get_single_data()
    except RecursionError as error:
        raise TopologyError(
            where,
            (("", "expected a topology, found values nested too deep to read: flatten them"),),
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
        seen: set[str] = set()
        repeated = ""
        for repeated, _ in pairs:
            if repeated in seen:
                break
            seen.add(repeated)
        raise _RepeatedKey(f"found key {shown(repeated)} twice in one object: keep one of them")
    return found


class _TopologyLoader(Composer, CParser, SafeConstructor, Resolver):
    """YAML's safe loader without aliases and repeated keys.

    Scanning is libyaml's, four times as fast as Python's; composing is Python's, which bounds its own depth.
    """

    def __init__(self, stream: str | bytes) -> None:
        CParser.__init__(self, stream)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem=f"found alias *{event.anchor}: write out what it stands for",
                problem_mark=event.start_mark,  # type: ignore[arg-type] # libyaml's mark, which prints the same
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"found key {shown(key.value)} twice in one mapping: keep one of them",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
