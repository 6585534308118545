"""All targets, and those that users add."""

import functools
import logging
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, TypeVar

from cnnmod.deploy.targets.compile import CompileTarget
from cnnmod.deploy.targets.eager import EagerTarget
from cnnmod.deploy.targets.onnxruntime import OnnxRuntimeTarget
from cnnmod.deploy.targets.openvino import OpenVinoTarget
from cnnmod.deploy.targets.pt2 import Pt2Target
from cnnmod.deploy.targets.target import FLOAT32, INT8, FileTarget, Target, runtime_name

logger = logging.getLogger("cnnmod")
TargetT = TypeVar("TargetT", bound=type[Target])
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (EagerTarget(), CompileTarget(), OnnxRuntimeTarget(), OpenVinoTarget(), Pt2Target())
}


class Runtime(NamedTuple):
    """A target in one of its precisions."""

    target: Target
    precision: str


def register_target(target: TargetT) -> TargetT:
    """Register a target. It is then known by its name to `lower`, `export`, `compare`, and the command line.

    An installed package whose entry point in the group `cnnmod.targets` names the class is registered by itself.

    Args:
        target: A subclass of `Target` or `FileTarget`, built without arguments.

    Raises:
        ValueError: It is no such class, lacks a method or an attribute, or has a name that another target has.

    Examples:
        >>> import torch
        >>> from cnnmod.deploy.forms import EagerForm
        >>> @register_target
        ... class TorchScriptTarget(Target):
        ...     name = "torchscript"
        ...     forms = (EagerForm,)
        ...     in_torch = True
        ...
        ...     def start(self, lowered, example, precision):
        ...         return torch.jit.trace(lowered, example)
        >>> find_runtime("torchscript").target.name
        'torchscript'
        >>> del TARGETS["torchscript"]
    """
    if not (isinstance(target, type) and issubclass(target, Target)):
        raise ValueError(f"a target is a subclass of cnnmod.deploy.Target, not {target!r}")
    label = target.__name__
    wanted = ("name", "forms", *(("format", "suffix") if issubclass(target, FileTarget) else ()))
    if missing := [f"{name}()" for name in sorted(getattr(target, "__abstractmethods__", ()))] + [
        name for name in wanted if not hasattr(target, name)
    ]:
        raise ValueError(f"the target {label} has no {', '.join(missing)}")
    if INT8 in target.precisions and getattr(target, "quantize", None) in (None, FileTarget.quantize):
        raise ValueError(f"the target {label} has the precision 'int8', but no quantize()")
    made = target()
    taken = _runtimes()
    if name := next((name for name in _named(made) if name in taken), None):
        raise ValueError(f"the target {label} is called {name!r}, as {type(taken[name].target).__name__} is")
    if isinstance(made, FileTarget):
        _check_format(made)
    TARGETS[made.name] = made
    return target


def _check_format(made: FileTarget) -> None:
    for other in TARGETS.values():
        if isinstance(other, FileTarget) and (other.format == made.format or other.suffix == made.suffix):
            raise ValueError(
                f"the target {type(made).__name__} has the format {made.format!r} and the ending {made.suffix!r}; "
                f"{type(other).__name__} has {other.format!r} and {other.suffix!r}"
            )


def runtimes() -> dict[str, Runtime]:
    """All runtimes by name: each target, and each target in each of its other precisions."""
    _load_entry_points()
    return _runtimes()


def find_runtime(name: str) -> Runtime:
    """The runtime of this name.

    Raises:
        ValueError: It is unknown.
        ModuleNotFoundError: A package that it needs is not installed.

    Examples:
        >>> find_runtime("eager").precision
        'float32'
    """
    known = runtimes()
    if name not in known:
        raise ValueError(f"unknown runtime {name!r}; the runtimes are {', '.join(known)}")
    known[name].target.check_installed(known[name].precision)
    return known[name]


def find_target(name: str) -> Target:
    """The target of this name.

    Raises:
        ValueError: It is unknown.
    """
    _load_entry_points()
    if name not in TARGETS:
        raise ValueError(f"unknown runtime {name!r}; the runtimes are {', '.join(TARGETS)}")
    return TARGETS[name]


def find_format(name: str) -> FileTarget:
    """The target whose files have this format.

    Raises:
        ValueError: It is unknown.
    """
    known = {target.format: target for target in file_targets()}
    if name not in known:
        raise ValueError(f"unknown format {name!r}; the formats are {', '.join(known)}")
    return known[name]


def file_targets() -> list[FileTarget]:
    """The targets that run files."""
    _load_entry_points()
    return [target for target in TARGETS.values() if isinstance(target, FileTarget)]


def _runtimes() -> dict[str, Runtime]:
    return {name: runtime for target in TARGETS.values() for name, runtime in _named(target).items()}


def _named(target: Target) -> dict[str, Runtime]:
    return {runtime_name(target, each): Runtime(target, each) for each in (FLOAT32, *target.precisions)}


@functools.cache
def _load_entry_points() -> None:
    for entry in entry_points(group="cnnmod.targets"):
        try:
            target = entry.load()
            if not any(type(known) is target for known in TARGETS.values()):
                register_target(target)
        except Exception as error:  # whatever a foreign module raises; ours must run without it
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("the target %r of the package %s is not used: %s", entry.name, _package_of(entry), reason)


def _package_of(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module
