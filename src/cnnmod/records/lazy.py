"""lazy: a package imports the files that define its public names when the names are used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(
    package: str, names: Mapping[str, Sequence[str]], packages: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package.

    Args:
        package: The name of the package.
        names: The public names that each module defines.
        packages: Packages inside the package that are imported when they are used.

    Examples:
        >>> find, names = lazy("outside", {"cnnmod.records.files": ["write_whole"]})
        >>> find("write_whole").__module__
        'cnnmod.records.files'
        >>> find("read_whole")
        Traceback (most recent call last):
        AttributeError: module 'outside' has no attribute 'read_whole'
        >>> names()
        ['write_whole']
    """
    modules = {name: module for module, exported in names.items() for name in exported}

    def find(name: str) -> Any:
        if name in packages:
            return importlib.import_module(f"{package}.{name}")
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return find, lambda: sorted([*modules, *packages])
