import pytest
import torch
from small_resnet import small_resnet
from torch import nn

import cnnmod

pytest.importorskip("torch_pruning", reason="a rival that only the benchmark needs: pip install torch-pruning")


def widths(model):
    return [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def test_every_layer_loses_the_same_share():
    from pruned import pruned

    model = pruned(0.25, layers=(1, 1, 1), num_classes=7)
    assert widths(model) == [12, 12, 12, 24, 24, 24, 48, 48, 48]
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_channels_of_the_trained_network_with_the_largest_weights_stay(tmp_path):
    from pruned import pruned

    dense = small_resnet(layers=(1, 1, 1))
    with torch.no_grad():
        dense.get_submodule("module1.0.conv1").weight[::2] *= 0.001  # inside a branch: a group of its own
        dense.get_submodule("module1.0.bn1").weight[::2] *= 0.001
        dense.get_submodule("module1.0.conv2").weight[:, ::2] *= 0.001
    cnnmod.save(dense, tmp_path / "dense.safetensors")
    model = pruned(0.5, layers=(1, 1, 1), trained=str(tmp_path / "dense.safetensors"))
    assert widths(model) == widths(pruned(0.5, layers=(1, 1, 1)))
    assert model.get_submodule("module1.0.bn1").weight.tolist() == [1.0] * 8


def test_network_before_pruning_must_be_trained_first(tmp_path):
    from pruned import pruned

    with pytest.raises(FileNotFoundError, match="train this network before its pruned ones"):
        pruned(0.5, trained=str(tmp_path / "dense.safetensors"))
