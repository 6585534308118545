import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, control_, convert_, lower
from cnnmod.deploy.capturable import check_capturable
from cnnmod.networks import build
from small import tiny_network

IMAGES = torch.rand(2, 1, 8, 8)
FIELDS = ({}, {"candidates": 2}, {"select": "random"}, {"scale": "input", "fuse_to": "all"}, {"order": "index"})


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_lowered_networks_can_be_captured(fields):
    """In float64, a MoD block runs the operators that it also runs on a GPU."""
    model = convert_(tiny_network(), MoDConfig(c=4, **fields), example=IMAGES).double()
    for network in (lower(model, "cudagraph", example=IMAGES.double()), control_(model).eval()):
        check_capturable(network, IMAGES.double())


class Reads(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.read = read

    def forward(self, x_NCHW):
        return self.read(x_NCHW)


@pytest.mark.parametrize(
    ("read", "operator", "reason"),
    [
        (lambda x: x * x.mean().item(), "aten::_local_scalar_dense", "needs values to continue"),
        (lambda x: x if x.sum() > 0 else -x, "aten::_local_scalar_dense", "needs values to continue"),
        (lambda x: x[x > 0.5], "aten::index.Tensor", "needs values to continue"),
        (lambda x: x.nonzero(), "aten::nonzero", "needs values to continue"),
        (lambda x: x if torch.equal(x, x) else -x, "aten::equal", "needs values to continue"),
        (lambda x: x.to("meta"), "aten::_to_copy", "copies between cpu and meta"),
        (lambda x: torch.empty_like(x, device="meta").copy_(x), "aten::copy_", "copies between cpu and meta"),
    ],
)
def test_operators_that_wait_for_values_raise(read, operator, reason):
    model = nn.Sequential(nn.ReLU(), nn.Sequential(Reads(read)))
    with pytest.raises(ValueError, match="cannot be captured as a CUDA graph") as raised:
        check_capturable(model, IMAGES)
    assert str(raised.value) == (
        f"this network cannot be captured as a CUDA graph: '1.0' calls {operator}, which {reason}; use the runtime "
        "'eager' or 'compile'"
    )


def test_indices_are_accepted():
    check_capturable(Reads(lambda x: x[:, :, torch.tensor([2, 0])]), IMAGES)


def test_numbers_on_another_device_are_accepted():
    """A graph holds them as constants."""
    model = Reads(lambda x: x.to(torch.float64) * torch.tensor(2.0).item())
    check_capturable(model, IMAGES.to("meta"))


@pytest.mark.slow
def test_detector_raises():
    model = lower(build("faster_rcnn", backbone="resnet18", num_classes=3), example=torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="calls aten::"):
        check_capturable(model, torch.rand(1, 3, 64, 64))
