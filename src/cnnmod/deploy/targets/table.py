"""The table of all targets. Users add their own targets to it."""

import functools
import logging
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, TypeVar

from cnnmod.deploy.targets.compile import CompileTarget
from cnnmod.deploy.targets.cudagraph import CudaGraphTarget
from cnnmod.deploy.targets.eager import EagerTarget
from cnnmod.deploy.targets.onnxruntime import OnnxRuntimeTarget
from cnnmod.deploy.targets.openvino import OpenVinoTarget
from cnnmod.deploy.targets.pt2 import Pt2Target
from cnnmod.deploy.targets.target import FLOAT32, INT8, FileTarget, Target, runtime_name
from cnnmod.records.errors import first_line

logger = logging.getLogger("cnnmod")
TargetT = TypeVar("TargetT", bound=type[Target])
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        EagerTarget(),
        CompileTarget(),
        CudaGraphTarget(),
        OnnxRuntimeTarget(),
        OpenVinoTarget(),
        Pt2Target(),
    )
}


class Runtime(NamedTuple):
    """A target with one of its precisions."""

    target: Target
    precision: str


def register_target(target: TargetT) -> TargetT:
    """Register a target, so that `lower`, `export`, `compare`, and the command line accept its name.

    A target of an installed package is registered automatically if an entry point in the group `cnnmod.targets` names
    its class.

    Args:
        target: A subclass of `Target` or `FileTarget` that can be created without arguments.

    Returns:
        The class.

    Raises:
        ValueError: If the class is not a target, lacks a method or an attribute, cannot be created without arguments,
            or has a name, format or suffix that another target has.

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
        raise ValueError(f"a target must be a subclass of cnnmod.deploy.Target, not {target!r}")
    label = target.__name__
    required = ("name", "forms", *(("format", "suffix") if issubclass(target, FileTarget) else ()))
    if missing := [f"{name}()" for name in sorted(getattr(target, "__abstractmethods__", ()))] + [
        name for name in required if not hasattr(target, name)
    ]:
        raise ValueError(f"the target {label} has no {', '.join(missing)}")
    if INT8 in target.precisions and getattr(target, "quantize", None) in (None, FileTarget.quantize):
        raise ValueError(f"the target {label} has the precision 'int8' but no quantize()")
    try:
        instance = target()
    except Exception as error:  # a foreign constructor can raise anything
        raise ValueError(f"the target {label} cannot be created without arguments: {first_line(error)}") from error
    registered = _runtimes()
    if name := next((name for name in _runtimes_of(instance) if name in registered), None):
        other = type(registered[name].target).__name__
        raise ValueError(f"the target {label} has the name {name!r}, which {other} already has")
    if isinstance(instance, FileTarget):
        _check_format(instance)
    TARGETS[instance.name] = instance
    return target


def _check_format(target: FileTarget) -> None:
    for other in TARGETS.values():
        if isinstance(other, FileTarget) and (other.format == target.format or other.suffix == target.suffix):
            raise ValueError(
                f"the target {type(target).__name__} has the format {target.format!r} and the suffix "
                f"{target.suffix!r}, but {type(other).__name__} already has {other.format!r} and {other.suffix!r}"
            )


def runtimes() -> dict[str, Runtime]:
    """Return all runtimes by name: each target in float32 and in each of its other precisions."""
    _load_entry_points()
    return _runtimes()


def find_runtime(name: str) -> Runtime:
    """Return the runtime with this name.

    Raises:
        ValueError: If the runtime is unknown.
        ModuleNotFoundError: If a package that the runtime needs is not installed.

    Examples:
        >>> find_runtime("eager").precision
        'float32'
    """
    all_runtimes = runtimes()
    if name not in all_runtimes:
        raise ValueError(f"unknown runtime {name!r}; the runtimes are {', '.join(all_runtimes)}")
    runtime = all_runtimes[name]
    runtime.target.check_installed(runtime.precision)
    return runtime


def find_target(name: str) -> Target:
    """Return the target with this name.

    Raises:
        ValueError: If the target is unknown.
    """
    _load_entry_points()
    if name not in TARGETS:
        raise ValueError(f"unknown runtime {name!r}; the runtimes are {', '.join(TARGETS)}")
    return TARGETS[name]


def find_format(name: str) -> FileTarget:
    """Return the target whose files have this format.

    Raises:
        ValueError: If the format is unknown.
    """
    targets = {target.format: target for target in file_targets()}
    if name not in targets:
        raise ValueError(f"unknown format {name!r}; the formats are {', '.join(targets)}")
    return targets[name]


def file_targets() -> list[FileTarget]:
    """Return the targets that run files."""
    _load_entry_points()
    return [target for target in TARGETS.values() if isinstance(target, FileTarget)]


def _runtimes() -> dict[str, Runtime]:
    return {name: runtime for target in TARGETS.values() for name, runtime in _runtimes_of(target).items()}


def _runtimes_of(target: Target) -> dict[str, Runtime]:
    precisions = (FLOAT32, *target.precisions)
    return {runtime_name(target, precision): Runtime(target, precision) for precision in precisions}


@functools.cache
def _load_entry_points() -> None:
    for entry in entry_points(group="cnnmod.targets"):
        try:
            target = entry.load()
        except Exception as error:  # a foreign module can raise anything, and cnnmod must run without it
            _warn(entry, error)
            continue
        if not any(type(registered) is target for registered in TARGETS.values()):
            try:
                register_target(target)
            except (ValueError, TypeError, AttributeError) as error:  # not a target, or with attributes of wrong types
                _warn(entry, error)


def _warn(entry: EntryPoint, error: Exception) -> None:
    package = entry.module if entry.dist is None else entry.dist.name
    logger.warning("the target %r of the package %s is not used: %s", entry.name, package, first_line(error))
