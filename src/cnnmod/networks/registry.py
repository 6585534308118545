"""Build a network by name: a network of cnnmod, timm or torchvision, or a function of the user.

`@register` registers the networks of cnnmod. You can use it for your own functions.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import timm
import torchvision
from torch import nn

from cnnmod.method.choices import BlockChoices
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import convert_

Make = Callable[..., nn.Module]
MakeT = TypeVar("MakeT", bound=Make)


class Factory(NamedTuple):
    """A registered function that builds a network.

    Attributes:
        make: The function.
        takes_config: Whether the function takes a `MoDConfig` as `config` and returns a MoD network.
    """

    make: Make
    takes_config: bool


FACTORIES: dict[str, Factory] = {}


def register(*, takes_config: bool) -> Callable[[MakeT], MakeT]:
    """Register a function that builds a network, under its own name.

    Args:
        takes_config: Whether the function takes a `MoDConfig` as `config` and returns a MoD network. `build_mod`
            converts the networks of other functions.

    Raises:
        ValueError: If a function with this name is already registered.

    Examples:
        >>> @register(takes_config=False)
        ... def tiny_cnn(num_classes=10):
        ...     return nn.Sequential(nn.Conv2d(3, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> len(build("tiny_cnn", num_classes=7))
        3
        >>> del FACTORIES["tiny_cnn"]
    """

    def add(make: MakeT) -> MakeT:
        name = make.__name__
        if name in FACTORIES:
            raise ValueError(f"a network {name!r} is already registered by {FACTORIES[name].make.__module__}")
        FACTORIES[name] = Factory(make, takes_config)
        return make

    return add


def build(name: str, **kwargs: Any) -> nn.Module:
    """Build a network by name. It has no pretrained weights unless the arguments request them.

    Args:
        name: `"NAME"` of a registered network or of a timm network, `"timm/NAME"`, `"cnnmod/NAME"`,
            `"torchvision/NAME"`, or `"package.module:factory"`, which imports the module and calls the function.
        kwargs: The factory's arguments.

    Raises:
        ValueError: If the name is unknown (the message has similar names), if the factory does not accept the
            arguments, or if your own function does not return a `torch.nn.Module`.

    Examples:
        >>> type(build("torchvision/resnet18", num_classes=10)).__module__
        'torchvision.models.resnet'
        >>> build("resnet75_md")
        Traceback (most recent call last):
        ...
        ValueError: unknown network 'resnet75_md'; did you mean resnet75_mod, resnet50_mod?
    """
    factory = factory_of(name)
    if not _is_from_timm(name):  # timm's functions all take **kwargs
        _check_call(name, factory, kwargs)
    try:
        model = factory(**kwargs)
    # A constructor that needs values raises NotImplementedError on the meta device.
    except (OSError, ValueError, NotImplementedError):
        raise
    except Exception as error:  # a constructor may raise anything for arguments that it does not accept
        if ":" in name:  # an error in the user's function keeps its traceback
            raise
        raise ValueError(f"{name} cannot be built with {kwargs}: {' '.join(str(error).split())}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def build_mod(name: str, config: MoDConfig | BlockChoices, **kwargs: Any) -> nn.Module:
    """Build a MoD network by name: a registered network that takes a config, or any other network, which is converted.

    Examples:
        >>> import cnnmod
        >>> len(cnnmod.mod_blocks(build_mod("resnet18", MoDConfig(order="index"))))
        4
    """
    return build(name, config=config, **kwargs) if takes_config(name) else convert_(build(name, **kwargs), config)


def factory_name(name: str) -> str:
    """Return the name with its library, as `cnnmod.save` takes the name of a factory.

    Examples:
        >>> factory_name("resnet18"), factory_name("resnet18_mod")
        ('timm/resnet18', 'cnnmod/resnet18_mod')
    """
    if "/" in name or ":" in name:
        return name
    return f"{'cnnmod' if name in FACTORIES else 'timm'}/{name}"


def takes_config(name: str) -> bool:
    """Whether the factory with this name takes a config and returns a MoD network."""
    library, _, network = name.rpartition("/")
    return library in ("", "cnnmod") and network in FACTORIES and FACTORIES[network].takes_config


def accepts(name: str, argument: str) -> bool:
    """Whether the factory with this name accepts an argument.

    Examples:
        >>> accepts("resnet18", "num_classes"), accepts("json:dumps", "indent"), accepts("json:loads", "num_classes")
        (True, True, True)
        >>> accepts("os:getcwd", "num_classes")
        False
    """
    if _is_from_timm(name):
        return True
    parameters = inspect.signature(factory_of(name)).parameters
    return argument in parameters or any(value.kind is value.VAR_KEYWORD for value in parameters.values())


def factory_of(name: str) -> Make:
    """Return the function that builds the network with this name.

    Raises:
        ValueError: If the name is unknown.
    """
    if ":" in name:
        return import_function(name, repr(name), "builds a network")
    library, _, network = name.rpartition("/")
    if library not in _LIBRARIES:
        raise ValueError(
            f"unknown network {name!r}; a name must be NAME, timm/NAME, torchvision/NAME, cnnmod/NAME or "
            "package.module:factory"
        )
    list_names, make = _LIBRARIES[library]
    names = list_names()
    # A timm name may have a tag after ".".
    if (network.partition(".")[0] if _is_from_timm(name) else network) not in names:
        similar = dict.fromkeys(difflib.get_close_matches(network, names, n=3))
        listed = ", ".join(f"{library}/{name}" if library else name for name in similar)
        hint = f"did you mean {listed}?" if listed else "see timm.list_models()"
        raise ValueError(f"unknown network {name!r}; {hint}")
    return make(network)


def _is_from_timm(name: str) -> bool:
    library, _, network = name.rpartition("/")
    return ":" not in name and (library == "timm" or (library == "" and network not in FACTORIES))


def _registered_or_timm(network: str) -> Make:
    return FACTORIES[network].make if network in FACTORIES else _timm_factory(network)


def _timm_factory(network: str) -> Make:
    return lambda **kwargs: timm.create_model(network, **kwargs)


def _torchvision_factory(network: str) -> Make:
    def make(**kwargs: Any) -> nn.Module:
        accepted = inspect.signature(torchvision.models.get_model_builder(network)).parameters
        backbone = {"weights_backbone": None} if "weights_backbone" in accepted else {}  # the default downloads weights
        return torchvision.models.get_model(network, **(backbone | kwargs))

    return make


_LIBRARIES: Mapping[str, tuple[Callable[[], Iterable[str]], Callable[[str], Make]]] = {
    "": (lambda: [*FACTORIES, *timm.list_models()], _registered_or_timm),
    "cnnmod": (lambda: [*FACTORIES], _registered_or_timm),
    "timm": (lambda: [*timm.list_models()], _timm_factory),
    "torchvision": (lambda: torchvision.models.list_models(), _torchvision_factory),
}


def import_function(name: str, subject: str, purpose: str) -> Callable[..., Any]:
    """Import a function of the user, `"package.module:function"`. Errors name the subject and the purpose.

    Raises:
        ValueError: If it cannot be imported or is not callable.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{subject} cannot be imported: {error}") from error
    if not callable(function):
        raise ValueError(f"{subject} is a {type(function).__name__}, not a function that {purpose}")
    return function


def _check_call(name: str, factory: Make, kwargs: dict[str, Any]) -> None:
    signature = inspect.signature(factory)
    missing = [
        repr(parameter.name)
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in kwargs
    ]
    if missing:
        one = len(missing) == 1
        raise ValueError(
            f"{name!r} needs the {'argument' if one else 'arguments'} {', '.join(missing)}; give "
            f"{'it' if one else 'each'} a default in the function, or for training a value: "
            "--set network_args.NAME=VALUE"
        )
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"{name!r} cannot be called with the arguments {kwargs}: {error}") from error
