"""Tests in one process. test_processes.py tests two processes."""

import copy

import torch
from torch import nn

from cnnmod.training.sync_batch_norm import sync_batch_norm
from conftest import trained_norms_


def test_every_norm_is_replaced_and_keeps_its_state(small_resnet):
    plain = trained_norms_(small_resnet)
    synced = sync_batch_norm(copy.deepcopy(plain))
    assert synced.state_dict().keys() == plain.state_dict().keys()
    norms = [type(module) for module in synced.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert nn.BatchNorm2d not in norms
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(synced(images), plain(images), rtol=0, atol=0)
