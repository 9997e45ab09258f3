"""Edits `serve_config.yaml` in round-trip mode: comments, order, quotes, anchors and aliases stay.

Pure. `ruamel.yaml` may normalise white space; a second edit finds the file already normalised.
Invariant: an edited text reads as the original with exactly the requested change, and no comment
outside a removed item is lost; otherwise `SettingsError` is raised.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from app.core.errors import SettingsError
from app.release.config.schema import DIAGNOSTICS, MODEL
from app.release.config.weights import above_zero

APPLICATION_PREFIX = "model-"
_Commented = CommentedMap | CommentedSeq


class Placement(NamedTuple):
    """A version to deploy.

    Args:
        version: its name.
        checkpoint: as `serve_config.yaml` names it.
        device: of its replicas; None keeps that of the copied version.
        designs: that it serves; None where they are unknown, so that it may serve any.
    """

    version: str
    checkpoint: str
    device: str | None = None
    designs: Sequence[str] | None = None


def with_weights(
    text: str,
    weights: Mapping[str, float],
    designs: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Set the traffic weights of all versions.

    Args:
        text: Content of the file.
        weights: Percent by version; versions that are not named get 0.
        designs: Weights above 0 of designs with weights of their own; None leaves them.

    Raises:
        SettingsError: A version is not released, or the file cannot be edited.
    """

    def edit(document: Any) -> None:
        releases = {release["version"]: release for release in _traffic(document)["releases"]}
        for version in weights:
            _check_released(version, releases)
        for version, release in releases.items():
            weight = weights.get(version, 0.0)
            if release["weight"] != weight:
                release["weight"] = _number(weight)
        if designs is not None:
            _set_designs(_traffic(document), designs)

    # own weights that end take their comments with them
    return _edited(text, edit, removes=designs is not None)


def with_shadows(text: str, versions: Sequence[str]) -> str:
    """Set the shadow versions; an empty list removes the key, unless a comment belongs to it.

    Raises:
        SettingsError: The file cannot be edited.
    """

    def edit(document: Any) -> None:
        traffic = _traffic(document)
        if "shadows" not in traffic:
            if versions:
                comments = _take_comments_after(traffic, list(traffic)[-1])
                traffic["shadows"] = _flow_list(map(DoubleQuotedScalarString, versions))
                _put_comments_after(traffic, "shadows", comments)
            return
        shadows = traffic["shadows"]
        for index in reversed(range(len(shadows))):
            if shadows[index] not in versions:
                _remove(shadows, index)
        if not shadows and isinstance(shadows, CommentedSeq):
            shadows.fa.set_flow_style()
        shadows += [DoubleQuotedScalarString(name) for name in versions if name not in shadows]
        if not shadows and not re.search(r"#.*\n *shadows:|\n *shadows:.*#", text):
            comments = _take_comments_after(traffic, "shadows")
            del traffic["shadows"]
            _put_comments_after(traffic, list(traffic)[-1], comments)

    return _edited(text, edit, removes=True)


def with_version(text: str, placement: Placement, like: str) -> str:
    """Add a version: an application after the last model application, a release with weight 0.

    Args:
        text: Content of the file.
        placement: The new version.
        like: Released version whose application is copied, with its resources.

    Raises:
        SettingsError: The version is already there, or the file cannot be edited.
    """
    name = APPLICATION_PREFIX + placement.version

    def edit(document: Any) -> None:
        applications, releases = document["applications"], _traffic(document)["releases"]
        if placement.version in {release["version"] for release in releases}:
            raise SettingsError(
                f"expected a version that is not released, found {placement.version}, which is: "
                "retire it first, or give it weight"
            )
        if name in {application["name"] for application in applications}:
            raise SettingsError(
                f"expected no application '{name}', found one without a release: remove it or "
                "release it"
            )
        model = next(item["application"] for item in releases if item["version"] == like)
        application = _copied(next(item for item in applications if item["name"] == model))
        application["name"] = name
        application["args"]["checkpoint"] = placement.checkpoint
        if placement.device is not None:
            application["args"]["device"] = placement.device
        release = _copied(releases[-1])
        release["version"], release["application"] = placement.version, name
        release["weight"] = 0
        if placement.designs is not None:
            release["designs"] = _flow_list(placement.designs)
        else:
            release.pop("designs", None)
        last = max(i for i, item in enumerate(applications) if item["import_path"] == MODEL)
        _insert(applications, last + 1, application, spaced=True)
        _insert(releases, len(releases), release, spaced=False)

    return _edited(text, edit)


def without_version(text: str, version: str) -> str:
    """Remove a version's release and application; the comments around them stay.

    Raises:
        SettingsError: The version is not released, has weight or is a shadow, or the file cannot
            be edited.
    """

    def edit(document: Any) -> None:
        traffic = _traffic(document)
        releases = {release["version"]: release for release in traffic["releases"]}
        _check_released(version, releases)
        if (weight := releases[version]["weight"]) > 0:
            raise SettingsError(
                f"expected version {version} without weight, found {weight:g}: give its traffic "
                "to other versions first"
            )
        if version in traffic.get("shadows", ()):
            raise SettingsError(
                f"expected version {version} not to be a shadow, found that it is: end that first"
            )
        own = [name for name, item in traffic.get("designs", {}).items() if item.get(version)]
        if own:
            raise SettingsError(
                f"expected version {version} without weight, found that design {', '.join(own)} "
                "gives it some: give its traffic to other versions first"
            )
        for item in traffic.get("designs", {}).values():
            item.pop(version, None)
        names = [application["name"] for application in document["applications"]]
        _remove(document["applications"], names.index(releases[version]["application"]))
        _remove(traffic["releases"], list(releases).index(version))

    return _edited(text, edit, removes=True)


def _set_designs(traffic: Any, designs: Mapping[str, Mapping[str, float]]) -> None:
    """Set the weights of designs with their own; without any, remove the key."""
    if "designs" not in traffic:
        if not designs:
            return
        last = list(traffic)[-1]
        comments = _take_comments_after(traffic, last)
        traffic["designs"] = CommentedMap()
        _put_comments_after(traffic, "designs", comments)
    given = traffic["designs"]
    releases = {release["version"]: release for release in traffic["releases"]}
    for version in chain.from_iterable(designs.values()):
        _check_released(version, releases)
    for design in [name for name in given if name not in designs]:
        comments = _take_comments_after(given, design)
        del given[design]
        _put_comments_after(traffic, "designs", comments)
    for design, weights in designs.items():
        wanted = {name: _number(weight) for name, weight in above_zero(weights).items()}
        if {name: weight for name, weight in given.get(design, {}).items() if weight} != wanted:
            comments = _take_comments_after(given, design) if design in given else ""
            given[design] = CommentedMap(
                (DoubleQuotedScalarString(name), weight) for name, weight in wanted.items()
            )
            given[design].fa.set_flow_style()
            _put_comments_after(given, design, comments)
    if not given:
        comments = _take_comments_after(traffic, "designs")
        del traffic["designs"]
        _put_comments_after(traffic, list(traffic)[-1], comments)


def _number(weight: float) -> float:
    return int(weight) if weight == int(weight) else weight


def _edited(text: str, edit: Callable[[Any], None], *, removes: bool = False) -> str:
    """Apply an edit to the round-trip document, and to plain data to verify the result."""
    expected = yaml.load(text, Loader=yaml.CSafeLoader)
    edit(expected)
    round_trip = YAML()
    round_trip.Representer = _Representer
    round_trip.preserve_quotes = True
    round_trip.width = 4096  # never break a line
    offset = 0 if re.search(r"^applications:\n(#.*\n)*- ", text, re.MULTILINE) else 2
    round_trip.indent(mapping=2, sequence=2 + offset, offset=offset)
    try:
        document = round_trip.load(text)
        unchanged = _dumped(round_trip, document)
        edit(document)
        edited = _dumped(round_trip, document)
        found = yaml.load(edited, Loader=yaml.CSafeLoader)
    except (YAMLError, yaml.YAMLError) as error:
        raise _cannot_edit(f"an error: {error}") from error
    if found != expected:
        raise _cannot_edit("a layout in which more would change")
    lost = _comments(text) - _comments(unchanged if removes else edited)
    if lost:
        raise _cannot_edit(f"a comment that would be lost: '{next(iter(lost))}'")
    return edited


class _Representer(RoundTripRepresenter):
    """Writes None as `null`, and floats without an exponent, which YAML 1.1 reads as a string."""


_Representer.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
)
_Representer.add_representer(
    float,
    lambda dumper, value: dumper.represent_scalar(
        "tag:yaml.org,2002:float", format(Decimal(repr(value)), "f")
    ),
)


def _dumped(round_trip: YAML, document: Any) -> str:
    stream = io.StringIO()
    round_trip.dump(document, stream)
    return stream.getvalue().rstrip("\n") + "\n"


def _comments(text: str) -> Counter[str]:
    return Counter(re.findall(r"(?:^|\s)(#.*)", text, re.MULTILINE))


def _cannot_edit(found: str) -> SettingsError:
    return SettingsError(
        f"expected releases and applications that can be edited in place, found {found}: write "
        "them in block style, one `- name:` a line, or edit the file by hand"
    )


def _check_released(version: str, releases: Mapping[str, Any]) -> None:
    if version not in releases:
        raise SettingsError(
            f"expected a released version, found '{version}': the file has {', '.join(releases)}; "
            "deploy it first"
        )


def _traffic(document: Any) -> Any:
    diagnostics = next(
        item for item in document["applications"] if item["import_path"] == DIAGNOSTICS
    )
    ingress = next(item for item in diagnostics["deployments"] if item["name"] == "Ingress")
    return ingress["user_config"]["traffic"]


def _copied(node: Any) -> Any:
    """Copy a part of the document without its comments; anchored parts become aliases."""
    if isinstance(node, Mapping):
        copied: Any = CommentedMap((key, _part(value)) for key, value in node.items())
    else:
        copied = CommentedSeq(map(_part, node))
    if isinstance(node, _Commented) and node.fa.flow_style():
        copied.fa.set_flow_style()
    return copied


def _part(node: Any) -> Any:
    is_anchored = isinstance(node, _Commented) and node.anchor.value
    return _copied(node) if isinstance(node, dict | list) and not is_anchored else node


def _flow_list(items: Iterable[Any]) -> CommentedSeq:
    made = CommentedSeq(items)
    made.fa.set_flow_style()
    return made


def _insert(items: Any, index: int, item: Any, *, spaced: bool) -> None:
    """Insert behind an item, before the comments that follow it, which are about the next one."""
    comments = _take_comments_after(items, index - 1)
    items.insert(index, item)
    if spaced and (comments.startswith("\n") or index == len(items) - 1):
        _put_comments_after(items, index - 1, "\n")
    _put_comments_after(items, index, comments)


def _remove(items: Any, index: int) -> None:
    """Remove an item; the comments that follow it stay."""
    comments = _take_comments_after(items, index)
    del items[index]
    _put_comments_after(items, index - 1, comments.removeprefix("\n"))


def _take_comments_after(parent: Any, key: Any) -> str:
    """Detach the comments and blank lines that follow a value; plain data have none.

    ruamel.yaml attaches them to the last scalar of the value, or to the end of a collection.
    """
    if not isinstance(parent, _Commented):
        return ""
    node: Any = parent[key]
    if isinstance(node, _Commented) and node and not node.fa.flow_style():
        if node.lc.line < parent.lc.line:  # an alias: its comments follow the anchored value
            return ""
        last = _keys(node)[-1]
        taken = _take_comments_after(node, last)
        taken += "".join(
            " " * token.start_mark.column * token.value.startswith("#") + token.value
            for token in node.ca.end or ()
        )
        node.ca.end = []
        return taken
    slots = parent.ca.items.get(key)
    token = slots[0 if isinstance(parent, list) else 2] if slots else None
    if token is None:
        return ""
    beside, _, following = str(token.value).partition("\n")
    token.value = beside + "\n"
    return following


def _keys(node: Any) -> list[Any]:
    return list(range(len(node))) if isinstance(node, list) else list(node)


def _put_comments_after(parent: Any, key: Any, text: str) -> None:
    """Attach comment and blank lines behind a value: before the next one, or at the end."""
    if not isinstance(parent, _Commented) or not text:
        return
    tokens = [
        CommentToken(line.lstrip() + "\n", CommentMark(len(line) - len(line.lstrip())))
        for line in text.splitlines()
    ]
    keys = _keys(parent)
    following = keys[(keys.index(key) if key in keys else -1) + 1 :]
    if following:
        slots = parent.ca.items.setdefault(following[0], [None, None, None, None])
        slots[1] = tokens + (slots[1] or [])
    else:
        parent.ca.comment = parent.ca.comment or [None, None]
        parent.ca.end = tokens + (parent.ca.end or [])
