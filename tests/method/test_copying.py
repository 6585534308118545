import pytest
import torch
from torch import nn

import cnnmod
from cnnmod.method.copying import copied


def test_copied_names_the_attribute_that_cannot_be_copied(small_resnet):
    copy = copied(small_resnet)
    assert copy is not small_resnet
    assert all(map(torch.equal, copy.state_dict().values(), small_resnet.state_dict().values()))
    small_resnet.layer1.seen = small_resnet.conv1(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"layer1\.seen cannot be copied: .*once under torch\.no_grad"):
        copied(small_resnet)


@pytest.mark.parametrize("training", [False, True])
def test_compare_names_the_attribute_that_cannot_be_copied(small_resnet, training):
    mod = cnnmod.convert_(small_resnet, cnnmod.MoDConfig(c=4), example=torch.rand(1, 1, 8, 8))
    mod.layer1.seen = mod.conv1(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"layer1\.seen cannot be copied"):
        cnnmod.compare({"dense": nn.Identity(), "mod": mod}, torch.rand(1, 1, 8, 8), training=training)
