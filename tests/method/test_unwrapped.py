"""Every function that takes a network refuses wrapped networks, before it changes or writes anything."""

import pytest
import torch
from timm.utils.model_ema import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel

from cnnmod import MoDConfig, control_, convert_, load_, lower, plan, save
from cnnmod.measure.count import count
from cnnmod.method.unwrapped import check_unwrapped
from small import digits_resnet

EXAMPLE = torch.rand(1, 1, 8, 8)


class Ours(AveragedModel):
    """A subclass of AveragedModel, like the moving average in torchvision's references."""


def compiled_part(model):
    model.layer1 = torch.compile(model.layer1)
    return model


def sharded_part(model):
    fully_shard(model.layer1)
    return model


WRAPPERS = {
    "AveragedModel": (AveragedModel, "AveragedModel; the unwrapped module is model.module"),
    "a subclass": (Ours, "AveragedModel; the unwrapped module is model.module"),
    "timm's v2": (ModelEmaV2, "ModelEmaV2; the unwrapped module is model.module"),
    "timm's v3": (ModelEmaV3, "ModelEmaV3; the unwrapped module is model.module"),
    "DataParallel": (nn.DataParallel, "DataParallel; the unwrapped module is model.module"),
    "DDP": (nn.parallel.DistributedDataParallel, "DistributedDataParallel; the unwrapped module is model.module"),
    "replicate": (replicate, "DDP$"),
    "compiled": (torch.compile, "OptimizedModule; the unwrapped module is model._orig_mod"),
    "compiled part": (compiled_part, "OptimizedModule; the unwrapped module is model.layer1._orig_mod"),
    "FSDP2": (fully_shard, "FSDPModule$"),
    "FSDP2 of a part": (sharded_part, "FSDPModule; model.layer1 is wrapped"),
}


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_function_refuses_wrapped_networks(wrapper, tmp_path, process_group):
    wrap, message = WRAPPERS[wrapper]
    converted = convert_(digits_resnet(), MoDConfig(c=8), example=EXAMPLE)
    save(converted, tmp_path / "file")
    before = {name: tensor.clone() for name, tensor in converted.state_dict().items()}
    there = sorted(tmp_path.iterdir())
    dense, converted = wrap(digits_resnet()), wrap(converted)
    for action in (
        lambda: convert_(dense, MoDConfig(c=8), example=EXAMPLE),
        lambda: plan(dense, MoDConfig(c=8), example=EXAMPLE),
        lambda: control_(converted),
        lambda: lower(converted, example=EXAMPLE),
        lambda: count(converted, EXAMPLE),
        lambda: save(converted, tmp_path / "other"),
        lambda: load_(converted, tmp_path / "file", example=EXAMPLE),
        lambda: load_(dense, tmp_path / "file", example=EXAMPLE),
    ):
        with pytest.raises(ValueError, match=f"before it is wrapped in {message}"):
            action()
    assert sorted(tmp_path.iterdir()) == there
    values = converted.state_dict().values()
    assert all(any(torch.equal(_whole(value), tensor) for value in values) for tensor in before.values())


def _whole(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def test_saved_moving_average_can_be_loaded(tmp_path):
    model = convert_(digits_resnet(), MoDConfig(c=8), example=EXAMPLE)
    average = AveragedModel(model)
    nn.init.zeros_(model.fc.weight)
    average.update_parameters(model)
    nn.init.ones_(model.fc.weight)
    average.update_parameters(model)
    save(average.module, tmp_path / "file")
    assert torch.equal(load_(digits_resnet(), tmp_path / "file", example=EXAMPLE).fc.weight, average.module.fc.weight)


def test_network_compiled_in_place_is_accepted():
    model = digits_resnet()
    model.compile()
    check_unwrapped(model)


def test_object_that_is_not_a_module_raises():
    with pytest.raises(ValueError, match=r"the model must be a torch\.nn\.Module, not dict"):
        check_unwrapped({})
