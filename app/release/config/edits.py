"""Changes the text of `serve_config.yaml` where releases stand, and leaves every other character as a person wrote it.

The places come from YAML's own parser; what is new is a copy of its neighbour with other values. Pure.
Invariant: a changed text reads as what was read before, changed exactly as asked, or there is an error and no text.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import yaml

from app.core.errors import SettingsError
from app.release.config.schema import DIAGNOSTICS, MODEL

APPLICATION_PREFIX = "model-"


class Placement(NamedTuple):
    """Where a version's weights come from and where they go; a device of None is the one of the version that is copied."""

    version: str
    checkpoint: str
    device: str | None = None


class _Change(NamedTuple):
    """Characters [start, end) and what comes in their place."""

    start: int
    end: int
    text: str


def with_weights(text: str, weights: Mapping[str, float]) -> str:
    """Give versions their weights; those that are not named get none.

    Raises:
        SettingsError: a version is not released, or the file is laid out so that it can't be changed in place.
    """
    root = _compose(text)
    releases = _items(_releases(root))
    there = {_text(item, "version"): item for item in releases}
    for version in weights:
        if version not in there:
            raise SettingsError(
                f"expected a released version, found '{version}': the file has {', '.join(there)}; deploy it first"
            )
    changes = []
    wanted = yaml.safe_load(text)
    for version, item in there.items():
        weight = weights.get(version, 0.0)
        node = _child(item, "weight")
        if float(node.value) != weight:
            changes.append(_Change(node.start_mark.index, node.end_mark.index, _number(weight)))
        for release in _data_releases(wanted):
            if release["version"] == version:
                release["weight"] = weight
    return _checked(_changed(text, changes), wanted)


def with_shadows(text: str, versions: Sequence[str]) -> str:
    """Say which versions are shadows; where none is left the key goes, unless a comment is about it.

    Raises:
        SettingsError: the file is laid out so that it can't be changed in place.
    """
    if not text.endswith("\n"):
        text += "\n"
    traffic = _traffic(_compose(text))
    keys = (
        {key.value: (key, value) for key, value in traffic.value}
        if isinstance(traffic, yaml.MappingNode)
        else {}
    )
    wanted = yaml.safe_load(text)
    data = _data_traffic(wanted)
    had = data.get("shadows", [])
    shadows = [
        *(name for name in had if name in versions),
        *(name for name in versions if name not in had),
    ]
    if shadows or "shadows" in data:
        data["shadows"] = shadows
    rendered = "[" + ", ".join(f'"{version}"' for version in shadows) + "]"
    if "shadows" not in keys:
        releases, listed = keys["releases"]
        after = _end_of(text, listed)
        line = " " * releases.start_mark.column + f"shadows: {rendered}\n" if shadows else ""
        return _checked(_changed(text, [_Change(after, after, line)]), wanted)
    key, node = keys["shadows"]
    start, end = text.rfind("\n", 0, key.start_mark.index) + 1, _end_of(text, node)
    if not shadows and not _is_commented(text, start, end):
        del data["shadows"]
        changes = [_Change(start, end, "")]
    elif isinstance(node, yaml.SequenceNode) and not node.flow_style:
        changes = _changed_lines(text, key, node, shadows)
    else:
        changes = [_Change(node.start_mark.index, node.end_mark.index, rendered)]
    return _checked(_changed(text, changes), wanted)


def with_version(text: str, placement: Placement, like: str) -> str:
    """Add a version: its application after the last one that holds a version, its release with weight 0 after the last.

    Args:
        text: of the file.
        placement: the new version.
        like: the released version whose application is copied, with its resources.

    Raises:
        SettingsError: the version is there already, or the file is laid out so that nothing can be added in place.
    """
    if not text.endswith("\n"):
        text += "\n"
    root = _compose(text)
    releases = _items(_releases(root))
    if placement.version in {_text(item, "version") for item in releases}:
        raise SettingsError(
            f"expected a version that is not released, found {placement.version}, which is: retire it first, or give it weight"
        )
    name = APPLICATION_PREFIX + placement.version
    applications = _items(_child(root, "applications"))
    if name in {_text(item, "name") for item in applications}:
        raise SettingsError(
            f"expected no application '{name}', found one without a release: remove it or release it"
        )
    model_like = next(
        release for release in _data_releases(yaml.safe_load(text)) if release["version"] == like
    )
    template = next(
        item for item in applications if _text(item, "name") == model_like["application"]
    )
    models = [item for item in applications if _text(item, "import_path") == MODEL]
    arguments = _child(template, "args")
    values = {
        _child(template, "name"): name,
        _child(arguments, "checkpoint"): placement.checkpoint,
    }
    if placement.device is not None:
        values[_child(arguments, "device")] = placement.device
    application = _copied(text, template, values, _anchors(text))
    spaced = len(applications) < 2 or _blank_before(text, applications[-1])
    release = _copied(
        text,
        releases[-1],
        {
            _child(releases[-1], "version"): placement.version,
            _child(releases[-1], "application"): name,
            _child(releases[-1], "weight"): 0,
        },
        frozenset(),
    )
    after_models, after_releases = _end_of(text, models[-1]), _end_of(text, releases[-1])
    changed = _changed(
        text,
        [
            _Change(after_models, after_models, ("\n" if spaced else "") + application),
            _Change(after_releases, after_releases, release),
        ],
    )
    return _checked(
        changed,
        _data_with_version(yaml.safe_load(text), placement, model_like["application"], name),
    )


def without_version(text: str, version: str) -> str:
    """Remove a version's release and application; comments around them stay.

    Raises:
        SettingsError: the version is not released, has weight or is a shadow, or the file is laid out so that nothing can be removed.
    """
    root = _compose(text)
    releases = {_text(item, "version"): item for item in _items(_releases(root))}
    if version not in releases:
        raise SettingsError(
            f"expected a released version, found '{version}': the file has {', '.join(releases)}"
        )
    item = releases[version]
    weight = float(_child(item, "weight").value)
    if weight > 0:
        raise SettingsError(
            f"expected version {version} without weight, found {weight:g}: split its traffic to others before it goes"
        )
    if version in _data_traffic(yaml.safe_load(text)).get("shadows", []):
        raise SettingsError(
            f"expected version {version} to be no shadow, found it one: end that with `shadow {version} --off`"
        )
    name = _text(item, "application")
    application = next(
        found for found in _items(_child(root, "applications")) if _text(found, "name") == name
    )
    wanted = yaml.safe_load(text)
    wanted["applications"] = [found for found in wanted["applications"] if found["name"] != name]
    kept = [release for release in _data_releases(wanted) if release["version"] != version]
    _data_traffic(wanted)["releases"] = kept
    cut = [_without(text, found) for found in (item, application)]
    return _checked(_changed(text, cut), wanted)


def _data_with_version(data: Any, placement: Placement, like: str, name: str) -> Any:
    applications = data["applications"]
    twin = copy.deepcopy(next(item for item in applications if item["name"] == like))
    twin["name"] = name
    twin["args"]["checkpoint"] = placement.checkpoint
    if placement.device is not None:
        twin["args"]["device"] = placement.device
    last = max(place for place, item in enumerate(applications) if item["import_path"] == MODEL)
    applications.insert(last + 1, twin)
    _data_releases(data).append({"version": placement.version, "application": name, "weight": 0})
    return data


def _data_traffic(data: Any) -> Any:
    door = next(item for item in data["applications"] if item["import_path"] == DIAGNOSTICS)
    ingress = next(item for item in door["deployments"] if item["name"] == "Ingress")
    return ingress["user_config"]["traffic"]


def _data_releases(data: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _data_traffic(data)["releases"]
    return found


def _checked(text: str, wanted: object) -> str:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _layout("it would no longer be YAML") from error
    if found != wanted:
        raise _layout("more would change than was asked")
    return text


def _layout(why: str) -> SettingsError:
    return SettingsError(
        f"expected releases and applications laid out as lists in block style, one `- name:` a line, found a layout in which {why}: "
        "lay the file out so, or change it by hand"
    )


def _compose(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return root


def _child(node: yaml.Node, key: str) -> yaml.Node:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                found: yaml.Node = value
                return found
    raise _layout(f"a `{key}` is missing that would have to be changed")


def _text(node: yaml.Node, key: str) -> str:
    return str(_child(node, key).value)


def _items(node: yaml.Node) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode):
        raise _layout("one of them is no list")
    return list(node.value)


def _releases(root: yaml.Node) -> yaml.Node:
    return _child(_traffic(root), "releases")


def _traffic(root: yaml.Node) -> yaml.Node:
    applications = _items(_child(root, "applications"))
    door = next(item for item in applications if _text(item, "import_path") == DIAGNOSTICS)
    ingress = next(
        item for item in _items(_child(door, "deployments")) if _text(item, "name") == "Ingress"
    )
    return _child(_child(ingress, "user_config"), "traffic")


def _changed(text: str, changes: Sequence[_Change]) -> str:
    for change in sorted(changes, reverse=True):
        text = text[: change.start] + change.text + text[change.end :]
    return text


def _start_of(text: str, item: yaml.Node) -> int:
    """Return where the line of a list's item begins."""
    start = text.rfind("\n", 0, item.start_mark.index) + 1
    if not re.fullmatch(r" *- +", text[start : item.start_mark.index]):
        raise _layout("an item does not begin on the line of its dash")
    return start


def _end_of(text: str, item: yaml.Node) -> int:
    """Return where the line after an item's last one begins; blank lines and comments behind it are not its own."""
    end = item.start_mark.index
    for line in text[end : item.end_mark.index].splitlines(keepends=True):
        end += len(line)
        if line.strip() and not line.lstrip().startswith("#"):
            last = end
    newline = text.find("\n", last - 1)
    return len(text) if newline < 0 else newline + 1


def _without(text: str, item: yaml.Node) -> _Change:
    """Return the removal of an item's lines, and of the blank line behind them where another, or a comment, stands before."""
    start, end = _start_of(text, item), _end_of(text, item)
    above = text[:start].splitlines()[-1].lstrip()
    if text[end:].startswith("\n") and (not above or above.startswith("#")):
        end += 1
    return _Change(start, end, "")


def _changed_lines(
    text: str, key: yaml.Node, node: yaml.SequenceNode, wanted: Sequence[str]
) -> list[_Change]:
    """Return the changes of a list in block style that leave its other lines as they are."""
    there = {str(item.value): item for item in node.value}
    last = node.value[-1]
    after, margin = _end_of(text, last), text[_start_of(text, last) : last.start_mark.index]
    added = "".join(f'{margin}"{version}"\n' for version in wanted if version not in there)
    cut = [
        _Change(_start_of(text, item), _end_of(text, item), "")
        for name, item in there.items()
        if name not in wanted
    ]
    emptied = [] if wanted else [_Change(key.end_mark.index + 1, key.end_mark.index + 1, " []")]
    return [*cut, *emptied, _Change(after, after, added)]


def _is_commented(text: str, start: int, end: int) -> bool:
    """Tell whether a comment stands in these lines or right above them."""
    above = text[:start].splitlines()
    return "#" in text[start:end] or (bool(above) and above[-1].lstrip().startswith("#"))


def _blank_before(text: str, item: yaml.Node) -> bool:
    above = text[: _start_of(text, item)].splitlines()
    while above and above[-1].lstrip().startswith("#"):
        above.pop()
    return bool(above) and not above[-1].strip()


def _copied(
    text: str, item: yaml.Node, values: Mapping[yaml.Node, str | int], anchors: frozenset[str]
) -> str:
    """Return an item's lines with other values, without the comments that a person wrote about this one."""
    start, end = _start_of(text, item), _end_of(text, item)
    changes = []
    for node, value in values.items():
        if not start <= node.start_mark.index < end:
            raise _layout("a value that would have to be changed stands elsewhere, under an anchor")
        remark = re.match(
            r" +#[^\n]*", text[node.end_mark.index :]
        )  # it is about the value that was copied
        after = node.end_mark.index + (remark.end() if remark else 0)
        changes.append(_Change(node.start_mark.index - start, after - start, _scalar(value, node)))
    copied = _changed(text[start:end], changes)
    if not copied.endswith("\n"):
        copied += "\n"
    lines = [line for line in copied.splitlines(keepends=True) if not line.lstrip().startswith("#")]
    copied = "".join(lines)
    for anchor in anchors:
        copied = re.sub(rf"&{re.escape(anchor)}\b *", "", copied)
    return copied


def _number(weight: float) -> str:
    # YAML reads 1e-05 as a text
    return str(int(weight)) if weight == int(weight) else format(Decimal(repr(weight)), "f")


def _scalar(value: str | int, node: yaml.Node) -> str:
    if isinstance(value, int):
        return str(value)
    style = getattr(node, "style", None)
    if style == "'":
        return "'" + value.replace("'", "''") + "'"
    if style == '"' or yaml.safe_load(value) != value:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return value


def _anchors(text: str) -> frozenset[str]:
    return frozenset(_defined_anchors(text))


def _defined_anchors(text: str) -> Iterator[str]:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if (
            isinstance(event, yaml.NodeEvent)
            and not isinstance(event, yaml.AliasEvent)
            and event.anchor
        ):
            yield event.anchor
