import sys

import pytest
import timm
import torch
import torchvision

import cnnmod
from cnnmod import MoDConfig
from cnnmod.networks import build, build_mod, register
from cnnmod.networks.registry import FACTORIES


def test_build_finds_timm_and_cnnmod_networks():
    assert type(build("resnet18")) is type(build("resnet18_mod")) is type(build("timm/resnet18"))
    assert cnnmod.mod_blocks(build("cnnmod/resnet18_mod"))


def test_build_finds_torchvision_networks():
    assert type(build("torchvision/resnet18", num_classes=7)) is torchvision.models.ResNet


def test_build_downloads_no_backbone_weights(monkeypatch):
    """By default, torchvision's segmentation networks download backbone weights."""
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("downloaded weights"))
    build("torchvision/fcn_resnet50", num_classes=3)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    code = (
        "import timm\ndef make(**settings): return timm.create_model('resnet18', **settings)\nnumber = 3\nnone = list"
    )
    (tmp_path / "own_networks.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_networks"
    sys.modules.pop("own_networks", None)


def test_build_calls_a_user_factory(own_module):
    assert build(f"{own_module}:make", num_classes=3).num_classes == 3


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet75_mdo", "did you mean resnet75_mod"),
        ("mobilnetv2_mod", "mobilenetv2_mod"),
        ("?", r"timm\.list_models"),
        ("torchvision/resnt18", "did you mean torchvision/resnet18"),
        ("cnnmod/resnet18", "did you mean .*resnet18_mod"),
        ("keras/resnet50", r"a name must be NAME, timm/NAME, torchvision/NAME, cnnmod/NAME or package\.module:factory"),
        ("own_networks:other", "cannot be imported: .*has no attribute 'other'"),
        ("own_networks:number", "is a int, not a function"),
        ("own_networks:none", "returned a list, not a torch"),
        ("nowhere.at.all:x", "cannot be imported: No module named 'nowhere'"),
        (":x", "cannot be imported"),
    ],
)
def test_unknown_name_raises(name, hint, own_module):
    with pytest.raises(ValueError, match=hint):
        build(name)


@pytest.mark.parametrize("arguments", [{"no_such": 1}, {"num_classes": "many"}, {"num_classes": 10**15}], ids=str)
def test_invalid_factory_arguments_raise(arguments):
    with pytest.raises(ValueError, match=r"^timm/resnet18 cannot be built with \{.*\}: .+") as caught:
        build("timm/resnet18", **arguments)
    assert "\n" not in str(caught.value)


def test_registering_a_name_twice_raises():
    with pytest.raises(ValueError, match=r"'resnet18_mod' is already registered by cnnmod\.networks\.classification"):

        @register(takes_config=False)
        def resnet18_mod():
            return torch.nn.Identity()


def test_user_registered_network_is_built_and_converted():
    @register(takes_config=False)
    def outside(num_classes=10):
        return timm.create_model("resnet18", num_classes=num_classes)

    try:
        assert len(cnnmod.mod_blocks(build_mod("outside", MoDConfig(), num_classes=3))) == 4
        with pytest.raises(ValueError, match=r"'outside' cannot be called with the arguments \{'classes': 3\}"):
            build("outside", classes=3)
    finally:
        del FACTORIES["outside"]
