import copy
import sys
from types import MappingProxyType

import pytest
import timm
import torch

import cnnmod
from cnnmod import MoDConfig, control_
from cnnmod.networks import build, build_mod, load


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    code = (
        "import timm\ndef make(**settings): return timm.create_model('resnet18', **settings)\nnumber = 3\nnone = list"
    )
    (tmp_path / "own_networks.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_networks"
    sys.modules.pop("own_networks", None)


class TestLoad:
    """`load` for files that name a factory."""

    ARGUMENTS = MappingProxyType({"num_classes": 7, "in_chans": 1})

    @pytest.mark.parametrize("name", ["timm/regnety_002", "torchvision/mobilenet_v3_small", "cnnmod/resnet18_cifar"])
    def test_rebuilds_the_network(self, name, tmp_path):
        arguments = {} if "/mobile" in name else self.ARGUMENTS
        model = cnnmod.convert_(build(name, **arguments)).eval()
        cnnmod.save(model, tmp_path / "file", factory=name, factory_args=arguments)
        fresh = load(tmp_path / "file").eval()
        x_NCHW = torch.rand(2, arguments.get("in_chans", 3), 32, 32)
        assert torch.equal(fresh(x_NCHW), model(x_NCHW))

    def test_rebuilds_a_registered_mod_network(self, tmp_path):
        model = build("cnnmod/resnet18_cifar_mod").eval()
        cnnmod.save(model, tmp_path / "file", factory="cnnmod/resnet18_cifar_mod")
        x_NCHW = torch.rand(2, 3, 32, 32)
        assert torch.equal(load(tmp_path / "file").eval()(x_NCHW), model(x_NCHW))

    def test_user_factory_must_be_passed_to_load(self, tmp_path, own_module):
        model = cnnmod.convert_(build(f"{own_module}:make", num_classes=3)).eval()
        cnnmod.save(model, tmp_path / "file", factory=f"{own_module}:make", factory_args={"num_classes": 3})
        sys.modules.pop(own_module)
        with pytest.raises(ValueError, match=rf"--network {own_module}:make, or in Python load\(path, factory="):
            load(tmp_path / "file")
        assert own_module not in sys.modules
        fresh = load(tmp_path / "file", factory=lambda **settings: timm.create_model("resnet18", **settings)).eval()
        x_NCHW = torch.rand(1, 3, 64, 64)
        assert torch.equal(fresh(x_NCHW), model(x_NCHW))
        named = load(tmp_path / "file", factory=f"{own_module}:make").eval()
        assert torch.equal(named(x_NCHW), model(x_NCHW))

    @pytest.mark.parametrize("argument", ["pretrained", "pretrained_cfg", "checkpoint_path", "weights", "cache_dir"])
    def test_arguments_that_could_download_are_refused(self, argument, tmp_path):
        cnnmod.save(torch.nn.Linear(1, 1), tmp_path / "file", factory="timm/resnet18", factory_args={argument: True})
        with pytest.raises(
            ValueError, match=f"the factory's argument '{argument}' could download, import or read other files"
        ):
            load(tmp_path / "file")

    @pytest.mark.parametrize(
        "arguments", [{"a": {"weights": 1}}, {"a": [{"file": 1}]}, {"a": [["x", "hf-hub:x"]]}, {"a": "x:y"}], ids=str
    )
    def test_nested_arguments_that_could_download_are_refused(self, arguments, tmp_path):
        cnnmod.save(torch.nn.Linear(1, 1), tmp_path / "file", factory="timm/resnet18", factory_args=arguments)
        with pytest.raises(ValueError, match="could download, import or read other files"):
            load(tmp_path / "file")

    @pytest.mark.parametrize("arguments", [{"no_such": 1}, {"num_classes": "many"}])
    def test_arguments_not_accepted_by_the_factory_raise(self, arguments, tmp_path):
        cnnmod.save(torch.nn.Linear(1, 1), tmp_path / "file", factory="timm/resnet18", factory_args=arguments)
        with pytest.raises(ValueError, match="its factory does not accept"):
            load(tmp_path / "file")

    def test_timm_name_with_a_weights_tag_is_accepted(self, tmp_path):
        cnnmod.save(build("timm/resnet18"), tmp_path / "file", factory="timm/resnet18.a1_in1k")
        assert type(load(tmp_path / "file")) is type(build("resnet18"))

    def test_rebuilds_mod_networks_and_controls_with_any_config(self, tmp_path):
        model = build_mod("resnet18_cifar_mod", MoDConfig(order="index", candidates=4), channels=(16, 32, 64, 128))
        for one in (model.eval(), control_(copy.deepcopy(model)).eval()):
            arguments = {"channels": [16, 32, 64, 128]}
            cnnmod.save(one, tmp_path / "file", factory="cnnmod/resnet18_cifar_mod", factory_args=arguments)
            x_NCHW = torch.rand(2, 3, 32, 32)
            assert torch.equal(load(tmp_path / "file").eval()(x_NCHW), one(x_NCHW))

    def test_file_without_a_factory_raises(self, tmp_path):
        cnnmod.save(torch.nn.Linear(1, 1), tmp_path / "file")
        with pytest.raises(ValueError, match=r"names no factory; name it with --network, .*cnnmod\.load_"):
            load(tmp_path / "file")

    def test_factory_of_another_network_raises(self, tmp_path):
        model = cnnmod.convert_(build("timm/resnet18"))
        cnnmod.save(model, tmp_path / "file", factory="timm/resnet18", factory_args={"num_classes": 10})
        with pytest.raises(ValueError, match=r"is of another network: fc\.weight is \(1000, 512\) in the file"):
            load(tmp_path / "file")
