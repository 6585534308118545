"""Files as they get broken: bytes and JSON values changed at random, the same for each seed."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
_ODD_NUMBERS = (b"0", b"-1", b"255", b"65536", b"2147483648", b"99999999999999999999", b"1e999", b"NaN", b"null", b"x")
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "..", "../../outside", "/", "\0", "\ud800", "a" * 5000, "é\n\t", "None", "NaN"),
    *([], {}, [[]], [None], {"": None}, [1, "x", None, {}]),
)


def mutated(content: bytes, seed: int) -> bytes:
    """The content with one to three faults: cut off, overwritten, repeated, with other numbers in it, replaced.

    Args:
        content: A file's content.
        seed: The same seed gives the same faults.
    """
    draw = random.Random(seed)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(_FAULTS)(content, draw)
    return content


def mutated_json(content: bytes, seed: int) -> bytes:
    """JSON with one to three faults that leave it JSON: values of other types, keys missing, added or renamed.

    Every fourth seed changes the bytes instead, as `mutated` does.
    """
    if seed % 4 == 3:
        return mutated(content, seed)
    draw = random.Random(seed)
    root = [json.loads(content)]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change(draw.choice(_places(root)), draw)
    if draw.random() < 0.02:
        return b'{"a": ' * 100_000 + b"1" + b"}" * 100_000
    return json.dumps(root[0]).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every list or dictionary in the value, with every key in it."""
    found: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, (list, dict)):
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            found += [(value, key) for key in keys]
            left += [value[key] for key in keys]
    return found


def _change(place: tuple[Any, Any], draw: random.Random) -> None:
    where, key = place
    value = where[key]
    kind = draw.randrange(8)
    if kind == 0 and isinstance(where, dict):
        del where[key]
    elif kind == 1 and isinstance(where, dict):
        where[f"{key}x"] = where.pop(key)
    elif kind == 2 and isinstance(where, dict):
        where[draw.choice(("extra", "", "../x", "a.b"))] = value
    elif kind == 3:
        where[key] = [value]
    elif kind == 4:
        where[key] = {"value": value}
    elif kind == 5:
        where[key] = str(value)
    elif kind == 6 and isinstance(value, (int, float)):
        where[key] = draw.choice((-value, value * 10**12, value + 0.5, value - 1))
    else:
        where[key] = copy.deepcopy(draw.choice(_ODD_VALUES))


def _cut_off(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 4, 32)) if changed else 0):
        changed[draw.randrange(min(len(changed), draw.choice((64, 1024, len(changed)))))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, draw: random.Random) -> bytes:
    start, size = draw.randrange(len(content) + 1), draw.choice((1, 4, 8, 64, 1024))
    fill = draw.choice((bytes(size), b"\xff" * size, draw.randbytes(size)))
    return content[:start] + fill + content[start + size :]


def _insert(content: bytes, draw: random.Random) -> bytes:
    start = draw.choice((0, draw.randrange(len(content) + 1), len(content)))
    return content[:start] + draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", bytes(8), draw.randbytes(16))) + content[start:]


def _delete(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.choice((1, 4, 64, 1024)) :]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    end = start + draw.choice((1, 4, 64, 1024))
    return content[:end] + content[start:end] + content[end:]


def _other_number(content: bytes, draw: random.Random) -> bytes:
    numbers = list(re.finditer(rb"\d+", content[:100_000]))
    if not numbers:
        return content
    number = draw.choice(numbers)
    return content[: number.start()] + draw.choice(_ODD_NUMBERS) + content[number.end() :]


def _replace(content: bytes, draw: random.Random) -> bytes:
    return draw.choice(
        (b"", b"\n", LFS_POINTER, b"<html><body>404</body></html>", b"null", b"[" * 100_000, b"\xff\xfe\0")
    )


_FAULTS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_cut_off, _flip_bits, _flip_bits, _overwrite, _insert, _delete, _repeat, _other_number, _other_number, _replace),
)
