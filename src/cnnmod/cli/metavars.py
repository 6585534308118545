"""with_metavars: short names of the values of options in `cnnmod SUBCOMMAND --help`."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

FunctionT = TypeVar("FunctionT", bound=Callable[..., None])
_NAMES = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}


def with_metavars(function: FunctionT) -> FunctionT:
    """Name the values of a subcommand's arguments. tyro's own names spell out `None` and empty lists.

    Examples:
        >>> def resize(size: tuple[int, ...] = (), out: Path | None = None): ...
        >>> [hint.__metadata__[-1].metavar for hint in with_metavars(resize).__annotations__.values()]
        ['INT ...', 'PATH']
    """
    for name, hint in get_type_hints(function, include_extras=True).items():
        metavar = _metavar(get_args(hint)[0] if get_origin(hint) is Annotated else hint)
        if metavar is not None:
            function.__annotations__[name] = Annotated[hint, tyro.conf.arg(metavar=metavar)]
    return function


def _metavar(hint: Any) -> str | None:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _metavar(next(arg for arg in args if arg is not types.NoneType))
    if origin is tuple:
        item = _metavar(args[0])
        return item and f"{item} ..."
    if origin is Literal:
        return f"{{{','.join(args)}}}"
    return _NAMES.get(hint)
