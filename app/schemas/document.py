"""Parses the text of a topology, JSON or a safe subset of YAML, into plain values.

Aliases are refused: a few hundred bytes of them expand to any amount of memory. Repeated keys are
refused: one of the two values would be dropped silently. The size of YAML is limited: it takes a
hundred times as long to parse as JSON.
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
"""Largest YAML in bytes (characters of a str); JSON may be larger."""


def read_document(text: str | bytes, where: str) -> object:
    """Parse JSON or YAML.

    Args:
        text: the document; bytes are UTF-8 or UTF-16.
        where: the name of the source, for messages.

    Returns:
        Mappings, lists, strings, numbers, booleans, dates and None.

    Raises:
        TopologyError: the text does not parse, repeats a key, has an alias, nests too deep, or is
            YAML larger than `MAX_YAML_BYTES`.
    """
    try:
        try:
            # JSON first: tabs between tokens are valid in JSON and not in YAML
            return json.loads(text, object_pairs_hook=_unique)
        except _RepeatedKey:
            raise
        except ValueError as error:
            if len(text) > MAX_YAML_BYTES:
                found = f"{len(text)} that are no JSON ({_reason(error)})"
                expected = f"JSON, or YAML of at most {MAX_YAML_BYTES} bytes"
                raise _failure(
                    where, f"expected {expected}, found {found}: send it as JSON"
                ) from error
            return _TopologyLoader(text).get_single_data()
    except RecursionError as error:
        raise _failure(
            where, "expected a topology, found values nested too deep to read: flatten them"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        # all but the last are of YAML's constructors, which do not check a value with a tag
        raise _failure(
            where, f"expected YAML or JSON, found text that does not parse: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, _RepeatedKey | json.JSONDecodeError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not {error.encoding}"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or ""
        if "constructor for the tag" in problem:
            problem = "found a tag of no plain value: leave it out"
        elif "unhashable" in problem:
            problem = "found a key that is a list or an object: use text"
        elif problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        return place + problem
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position} is not allowed: {error.reason}"
    return "a value is no valid date, or does not fit its tag: write it in quotes"


def _failure(where: str, message: str) -> TopologyError:
    return TopologyError(where, (("", message),))


class _RepeatedKey(ValueError):
    """One JSON object has a key twice."""


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

    libyaml scans, four times as fast as Python; Python composes, because it limits the depth.
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
                problem=f"found alias *{event.anchor}: write its value out",
                problem_mark=event.start_mark,  # type: ignore[arg-type] # libyaml's mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(  # the signature of the base class
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002
    ) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"found key {shown(key.value)} twice in one mapping: "
                        "keep one of them",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
