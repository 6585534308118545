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


def test_values_that_fit():
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
def test_values_that_do_not(changed, error):
    with pytest.raises(ValueError, match=error):
        parse(Point, GOOD | changed, "file")


def test_a_field_may_be_missing_if_it_has_a_default():
    assert parse(Point, GOOD | {"later": [1]}, "file").later == [1]
    with pytest.raises(ValueError, match=r"file: fields missing or unknown: x$"):
        parse(Point, {name: value for name, value in GOOD.items() if name != "x"}, "file")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_no_json(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file is not valid JSON: "):
        read_json(tmp_path / "file")


def test_no_object():
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
def test_files_that_are_no_json(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json {message}"):
        read_json(tmp_path / "a.json")
