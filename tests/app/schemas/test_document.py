"""Text of a topology to plain values: JSON and YAML agree, hostile text is refused cheaply."""

import contextlib
import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import TopologyError
from app.schemas.document import read_document

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


def _failure(text: str | bytes) -> str:
    with pytest.raises(TopologyError) as caught:
        read_document(text, "rig.yaml")
    assert caught.value.findings[0][0] == ""
    return caught.value.message


@given(data=PLAIN)
def test_json_is_parsed_unchanged(data: object) -> None:
    assert read_document(json.dumps(data), "x") == data


@given(
    data=st.dictionaries(
        st.text("abcdef", min_size=1, max_size=5), st.integers() | st.text("xyz 1:-", max_size=9)
    )
)
def test_yaml_is_parsed_unchanged(data: dict[str, object]) -> None:
    assert read_document(yaml.safe_dump(data), "x") == data


def test_json_indented_with_tabs_is_read() -> None:
    assert read_document('{\n\t"a":\t[1,\n\t2]\n}', "x") == {"a": [1, 2]}


@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_gives_values_or_a_topology_error(text: str | bytes) -> None:
    # anything but a TopologyError fails the test
    with contextlib.suppress(TopologyError):
        json.dumps(read_document(text, "x"), default=str)


def test_alias_is_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.perf_counter()
    message = _failure("\n".join(levels))
    assert "found alias *a0: write its value out" in message
    assert time.perf_counter() - started < 10.0


@pytest.mark.parametrize(
    "text", ["[" * 20_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "- " * 3_000 + "a"]
)
def test_deep_nesting_is_refused(text: str) -> None:
    assert "nested too deep" in _failure(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "key 'c' twice in one mapping"),
        ('{"c": 1, "c": 1}', "key 'c' twice"),
    ],
)
def test_repeated_key_is_refused(text: str, where: str) -> None:
    assert where in _failure(text)


@pytest.mark.parametrize(
    "text",
    [
        "a:\n\t- b",
        "a: \x00",
        b"\xff\xfe\x00",
        b"a: \xff",
        "a: 1\n---\nb: 2",
        "? [a]\n: b",
        "a: !!python/object/apply:os.system [x]",
        "a: 2020-99-01",
        "a: 1" + "0" * 5_000,
        '{"a": 1',
    ],
)
def test_text_that_does_not_parse_is_a_topology_error(text: str | bytes) -> None:
    assert "expected YAML or JSON, found text that does not parse" in _failure(text)


def test_repeated_key_of_a_large_object_is_found_at_once() -> None:
    text = "{" + ",".join(f'"k{n}": 1' for n in range(100_000)) + ', "k99999": 1}'
    started = time.perf_counter()
    assert "found key 'k99999' twice" in _failure(text)
    assert time.perf_counter() - started < 10.0


def test_yaml_beyond_its_limit_is_refused_and_json_is_not() -> None:
    text = "[" + "[],\n" * 500_000 + "x]"
    assert (
        "expected JSON, or YAML of at most 262144 bytes, found 2000003 that are no JSON"
        in _failure(text)
    )
    assert read_document(json.dumps(["x" * 300_000]), "x") == ["x" * 300_000]


def test_yaml_up_to_its_limit_is_read() -> None:
    line = "- {component_id: pump, type: pump, range: [0, 250]}\n"
    assert len(read_document(line * 4_000, "x")) == 4_000  # type: ignore[arg-type]


def test_half_of_a_surrogate_pair_as_repeated_key_is_reported() -> None:
    for text in ('{"\\ud800": 1, "\\ud800": 2}', '{"\\ud800": 1, "\\ud800": y}'):
        _failure(text).encode()
