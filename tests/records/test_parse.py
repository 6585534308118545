from dataclasses import dataclass, field
from typing import Literal

import pytest

from cnnmod.records.parse import parse, read_json


@dataclass(frozen=True)
class Point:
    x: float
    kind: Literal["a", "b"]
    name: str | None
    inner: dict[str, list[int]]
    later: list[int] = field(default_factory=list)


GOOD = {"x": 1, "kind": "a", "name": None, "inner": {"y": [1, 2]}}


def test_valid_values_are_parsed():
    assert parse(Point, GOOD, "file") == Point(1, "a", None, {"y": [1, 2]})


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"x": "1"}, "file: x must be float, not '1'"),
        ({"x": True}, "file: x must be float, not True"),
        ({"x": float("nan")}, "file: x must be finite, not nan"),
        ({"x": float("inf")}, "file: x must be finite, not inf"),
        ({"x": 10**400}, "file: x must be finite, not 1000"),
        ({"kind": "c"}, "file: kind must be one of 'a', 'b', not 'c'"),
        ({"name": 3}, r"file: name must be str \| None, not 3"),
        ({"inner": {"y": [1, None]}}, r"file: inner: y\[1\] must be int, not None"),
        ({"z": 1}, "file: fields missing or unknown: z"),
        ({"later": ["1"]}, r"file: later\[0\] must be int, not '1'"),
    ],
)
def test_invalid_values_raise(changed, error):
    with pytest.raises(ValueError, match=error):
        parse(Point, GOOD | changed, "file")


def test_field_with_a_default_may_be_missing():
    assert parse(Point, GOOD | {"later": [1]}, "file").later == [1]
    with pytest.raises(ValueError, match=r"file: fields missing or unknown: x$"):
        parse(Point, {name: value for name, value in GOOD.items() if name != "x"}, "file")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_invalid_json_raises(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file is not valid JSON: "):
        read_json(tmp_path / "file")


def test_list_instead_of_object_raises():
    with pytest.raises(ValueError, match=r"file must be a JSON object, not \[\]"):
        parse(Point, [], "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON: Expecting"),
        (b"\xff", "is not valid JSON: 'utf-8' codec can't decode"),
        (b'{"a": NaN}', "is not valid JSON: NaN is not a JSON number"),
        (b"[" * 100_000, "is not valid JSON: maximum recursion depth"),
        (b'{"a": ' * 100_000, "is not valid JSON: maximum recursion depth"),
    ],
)
def test_invalid_json_error_names_the_cause(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json {message}"):
        read_json(tmp_path / "a.json")
