"""`HubNetwork`: a network as a folder or repository of the Hugging Face Hub, which timm reads too.

The folder has `model.safetensors`, a file of `cnnmod.save`, and `config.json` in timm's format. timm builds the network
with `hub_network`, which it knows after `import cnnmod.networks`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import ModelHubMixin, hf_hub_download
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cnnmod.method.checkpoint import save
from cnnmod.method.config import MoDConfig
from cnnmod.method.convert import control_, mod_blocks
from cnnmod.method.restructure import restructure_
from cnnmod.method.structure import Structure, read_structure
from cnnmod.method.trace import example_for
from cnnmod.networks.from_file import ARCHITECTURE, CONFIG, WEIGHTS, built, load
from cnnmod.records.files import write_json
from cnnmod.records.parse import read_json

_TIMM_OPTIONS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained_model_args")
default_cfgs: dict[str, Any] = dict(generate_default_cfgs({ARCHITECTURE: {}}))  # the name that timm expects


class HubNetwork(nn.Module, ModelHubMixin, library_name="cnnmod"):
    """A network with huggingface_hub's methods `save_pretrained`, `from_pretrained` and `push_to_hub`.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` builds the network too, after `import cnnmod.networks`, as
    does `cnnmod.networks.load(FOLDER)`. Nothing but the factories of timm, torchvision and cnnmod is called.

    Args:
        network: The network: converted, dense, or a control.
        factory: The name of the function that built the network before it was converted: `timm/NAME`,
            `torchvision/NAME` or `cnnmod/NAME`. Networks of other factories, such as a class of your own, are not
            accepted, because loading a folder would import code that the folder names. Save them with `cnnmod.save`,
            and load them into a network that you built with `cnnmod.load_`.
        factory_args: The arguments of the factory: JSON values.
        mean: The mean of each channel with which the images were normalized. `None` uses timm's value.
        std: The standard deviation of each channel, as `mean`.
        size: Height and width of the images in pixels. `None` uses the network's own size.
        classes: The class names.

    Raises:
        ValueError: If the factory is not one of timm, torchvision and cnnmod. `save_pretrained` raises the errors of
            `cnnmod.save`, and `from_pretrained` those of `cnnmod.networks.load`.

    Examples:
        >>> import cnnmod, tempfile, timm
        >>> model = cnnmod.convert_(timm.create_model("resnet18", num_classes=7))
        >>> folder = tempfile.mkdtemp()
        >>> HubNetwork(model, factory="timm/resnet18", factory_args={"num_classes": 7}).save_pretrained(folder)
        >>> len(cnnmod.mod_blocks(HubNetwork.from_pretrained(folder).network))
        4
        >>> timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes
        7
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        factory: str,
        factory_args: Mapping[str, Any] = MappingProxyType({}),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not factory.startswith(("timm/", "torchvision/", "cnnmod/")):
            raise ValueError(
                f"factory must be timm/NAME, torchvision/NAME or cnnmod/NAME, not {factory!r}: a folder must not "
                "decide which code is imported; for a network of your own, use cnnmod.save and cnnmod.load_"
            )
        self.network, self.factory, self.factory_args = network, factory, dict(factory_args)
        self.mean, self.std, self.size, self.classes = mean, std, size, classes

    def forward(self, images_NCHW: Any) -> Any:
        """Return the outputs of the network."""
        return self.network(images_NCHW)

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = save_directory / WEIGHTS
        save(self.network, weights, factory=self.factory, factory_args=self.factory_args)
        write_json(save_directory / CONFIG, self._config(read_structure(weights)))

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubNetwork":
        """Load a folder, or download a repository and load it. The options are those of `hf_hub_download`."""
        folder = Path(model_id)
        if not folder.is_dir():
            accepted = ("revision", "cache_dir", "force_download", "token", "local_files_only")
            options = {name: options[name] for name in accepted if name in options}
            files = [Path(hf_hub_download(model_id, name, **options)) for name in (CONFIG, WEIGHTS)]
            folder = files[0].parent
        network = load(folder)
        structure, config = read_structure(folder / WEIGHTS), read_json(folder / CONFIG)
        settings = config.get("pretrained_cfg", {})
        return cls(
            network,
            factory=str(structure.factory),
            factory_args=structure.factory_args,
            mean=settings.get("mean"),
            std=settings.get("std"),
            size=tuple(settings["input_size"][1:]) if "input_size" in settings else None,
            classes=config.get("label_names"),
        )

    def _config(self, structure: Structure) -> dict[str, Any]:
        """Return the content of `config.json`, as timm writes it."""
        own = getattr(self.network, "pretrained_cfg", None) or {}
        _, *input_size = example_for(self.network, self.size).shape
        settings = {"input_size": input_size, "mean": self.mean or own.get("mean"), "std": self.std or own.get("std")}
        settings["classifier"] = own.get("classifier")
        settings = {key: value for key, value in settings.items() if value is not None}
        count = getattr(self.network, "num_classes", None) if self.classes is None else len(self.classes)
        arguments = {
            "factory": structure.factory,
            "factory_args": structure.factory_args,
            "blocks": {name: config.to_dict() for name, config in structure.blocks.items()},
            "control": structure.control,
        }
        if structure.skipped:
            arguments["skipped"] = structure.skipped
        config: dict[str, Any] = {"architecture": ARCHITECTURE, "model_args": arguments, "pretrained_cfg": settings}
        if count is not None:
            config["num_classes"] = count
        if self.classes is not None:
            config["label_names"] = list(self.classes)
        return config


@register_model
def hub_network(
    pretrained: bool = False,
    *,
    factory: str,
    factory_args: Mapping[str, Any] = MappingProxyType({}),
    blocks: Mapping[str, Any] = MappingProxyType({}),
    skipped: Sequence[str] = (),
    control: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Build the network of a folder of `HubNetwork` for timm. Other arguments are passed to its factory."""
    options = {name: kwargs.pop(name, None) for name in _TIMM_OPTIONS}
    configs = {name: MoDConfig.from_dict(values) for name, values in blocks.items()}
    structure = Structure(configs, list(skipped), control, factory, {**factory_args, **kwargs})

    def make(**settings: Any) -> nn.Module:
        model = built(CONFIG, structure, None)
        restructure_(model, structure, CONFIG)
        if structure.control and mod_blocks(model):  # a factory of a MoD network
            control_(model)
        return model

    num_classes = kwargs.get("num_classes", factory_args.get("num_classes"))
    return build_model_with_cfg(make, ARCHITECTURE, pretrained, num_classes=num_classes, **options)
