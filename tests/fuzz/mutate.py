"""Change bytes and JSON values of files at random. The same seed gives the same changes."""

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
    """Return the content with one to three faults: truncated, overwritten, repeated, changed numbers or replaced.

    Args:
        content: The content of a file.
        seed: The same seed gives the same faults.
    """
    draw = random.Random(seed)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(_FAULTS)(content, draw)
    return content


def mutated_json(content: bytes, seed: int) -> bytes:
    """Return JSON with one to three faults: values of other types, and missing, added or renamed keys.

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
    """Return all pairs of a list or dictionary in the value and one of its keys."""
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


def mutated_safetensors(content: bytes, seed: int) -> bytes:
    """Return a safetensors file with faults in its bytes, its header, the JSON in its metadata, or its tensors.

    A file with faults in its tensors is valid: tensors are missing, renamed, of other dtypes or shapes, or NaN.
    """
    if seed % 4 == 0:
        return mutated(content, seed)
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], content[8 + size :]
    if seed % 4 == 1:
        return _with_header(mutated_json(header, seed // 4), data)
    values = json.loads(header)
    if seed % 4 == 2:
        (key,) = values["__metadata__"]
        changed = mutated_json(values["__metadata__"][key].encode(), seed // 4)
        values["__metadata__"][key] = changed.decode(errors="replace")
        return _with_header(json.dumps(values).encode(), data)
    draw = random.Random(seed)
    metadata = {"__metadata__": values.pop("__metadata__")}
    tensors = {name: (one["dtype"], one["shape"], data[slice(*one["data_offsets"])]) for name, one in values.items()}
    for _ in range(draw.choice((1, 1, 3))):
        name = draw.choice(list(tensors))
        tensors |= _other_tensor(name, *tensors.pop(name), draw)
    start, entries = 0, {}
    for name, (dtype, shape, content) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + len(content)]}
        start += len(content)
    return _with_header(json.dumps(metadata | entries).encode(), b"".join(one[2] for one in tensors.values()))


def _with_header(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def _other_tensor(name: str, dtype: str, shape: list[int], data: bytes, draw: random.Random) -> dict[str, Any]:
    """Return no tensor, or changed tensors whose size in bytes matches their dtype and shape."""
    same_size = {2: ("F16", "BF16", "I16"), 4: ("F32", "I32", "U32"), 8: ("F64", "I64", "U64", "C64")}
    width = {"F16": 2, "BF16": 2, "I16": 2, "F64": 8, "I64": 8, "C64": 8}.get(dtype, 4)
    kinds: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: {},
        lambda: {draw.choice(("", "x", f"{name}.x", "é", "../x", "\n")): (dtype, shape, data)},
        lambda: {name: (dtype, shape, data), f"{name}x": (dtype, shape, data)},
        lambda: {name: (draw.choice(same_size[width]), shape, data)},
        lambda: {name: (draw.choice(("I8", "U8", "BOOL", "F8_E4M3")), [len(data)], data)},
        lambda: {name: (dtype, [len(data) // width], data)},
        lambda: {name: (dtype, shape[::-1], data)},
        lambda: {name: (dtype, [1, *shape], data)},
        lambda: {name: (dtype, [0], b"")},
        lambda: {name: (dtype, shape, b"\xff" * len(data))},
    )
    return draw.choice(kinds)()
