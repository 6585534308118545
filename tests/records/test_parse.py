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
        ({"x": "1"}, "file: x is '1', not <class 'float'>"),
        ({"x": True}, "file: x is True, not <class 'float'>"),
        ({"kind": "c"}, "file: kind is 'c', not typing.Literal"),
        ({"name": 3}, "file: name is 3, not str | None"),
        ({"inner": {"y": [1, None]}}, r"file: inner: y\[1\] is None, not <class 'int'>"),
        ({"z": 1}, "file: fields missing or unknown: z"),
        ({"later": ["1"]}, r"file: later\[0\] is '1', not <class 'int'>"),
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
    with pytest.raises(ValueError, match="file is no JSON: "):
        read_json(tmp_path / "file")


def test_no_object():
    with pytest.raises(ValueError, match=r"file is \[\], not an object"):
        parse(Point, [], "file")
