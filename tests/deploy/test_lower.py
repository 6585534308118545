import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from cnnmod import MoDConfig, control_, convert_, lower, mod_blocks
from cnnmod.deploy.forms import EagerForm
from cnnmod.deploy.fused import FusedForm
from cnnmod.deploy.graph_forms import GraphForm, OnnxForm
from cnnmod.networks import build
from conftest import trained_norms_
from small import digits_resnet

SMALL = torch.rand(1, 1, 8, 8)


def forms(model, kind=EagerForm):
    return [module for module in model.modules() if isinstance(module, kind)]


FORMS = {
    "eager": EagerForm,  # or its subclass FusedForm if there is a compiler
    "compile": FusedForm,
    "cudagraph": EagerForm,
    "onnxruntime": OnnxForm,
    "openvino": OnnxForm,
    "pt2": GraphForm,
}


@pytest.mark.parametrize("order", ["score", "index"])
@pytest.mark.parametrize("runtime", FORMS)
def test_mod_blocks_get_the_form_of_the_runtime(runtime, order):
    model = trained_norms_(convert_(digits_resnet(), MoDConfig(c=4, reduction=2, order=order), example=SMALL))
    lowered = lower(model, runtime, example=SMALL)
    assert len(forms(lowered, FORMS[runtime])) == len(mod_blocks(model)) > 0
    for images in (1, 2, 5):
        x_NCHW = torch.rand(images, 1, 8, 8)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            with torch.inference_mode():
                ours = lowered.to(memory_format=memory_format)(x_NCHW.contiguous(memory_format=memory_format))
                torch.testing.assert_close(ours, model(x_NCHW), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mobilenetv2_mod", "resnet50_mod", "convnext_tiny_mod")
        ),
        "vgg16_bn_cifar_mod",
    ],
)
def test_network_families_compute_the_same(name):
    model = trained_norms_(build(name))
    lowered = lower(model)
    assert len(forms(lowered)) == len(mod_blocks(model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lowered.modules())
    x_NCHW = torch.rand(2, 3, 32, 32) if "cifar" in name else torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(x_NCHW)
        torch.testing.assert_close(lowered(x_NCHW), expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


def test_dense_networks_and_controls_compute_the_same(small_resnet):
    for model in (small_resnet, control_(convert_(copy.deepcopy(small_resnet), MoDConfig(c=4), example=SMALL))):
        lowered = lower(model, example=SMALL)
        x_NCHW = torch.rand(2, 1, 8, 8)
        with torch.inference_mode():
            torch.testing.assert_close(lowered(x_NCHW), model(x_NCHW), atol=1e-5, rtol=1e-5)


def test_original_model_is_unchanged():
    model = build("resnet18_mod").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lowered = lower(model)
    x_NCHW = torch.rand(1, 3, 64, 64)
    lowered(x_NCHW)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not lowered.training
    assert not any(parameter.requires_grad for parameter in lowered.parameters())


def test_features_are_not_overwritten():
    model = trained_norms_(build("resnet18_mod", features_only=True))
    x_NCHW = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(lower(model)(x_NCHW), model(x_NCHW), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_autocast_compute_the_same(dtype):
    model = trained_norms_(convert_(digits_resnet(), MoDConfig(c=4), example=SMALL))
    x_NCHW = torch.rand(2, 1, 8, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        lowered = lower(model, example=SMALL)(x_NCHW)
        torch.testing.assert_close(lowered.float(), model(x_NCHW).float(), atol=0.3, rtol=0.1)
    model.to(dtype)
    with torch.inference_mode():
        expected = model(x_NCHW.to(dtype))
        lowered = lower(model, example=SMALL)(x_NCHW.to(dtype))
    torch.testing.assert_close(lowered, expected, atol=0.3 if dtype == torch.bfloat16 else 1e-10, rtol=0.1)


def test_unknown_runtime_raises():
    with pytest.raises(
        ValueError,
        match="unknown runtime 'tensorrt'; the runtimes are eager, compile, cudagraph, onnxruntime, openvino",
    ):
        lower(build("resnet18"), "tensorrt")


def test_invalid_networks_and_inputs_raise():
    model = build("resnet18_mod")
    with pytest.raises(ValueError, match="a network, not a single MoD block"):
        lower(mod_blocks(model)["layer1.1"])
    with pytest.raises(ValueError, match="before it is wrapped in DataParallel"):
        lower(nn.DataParallel(model))
    lowered = lower(model)
    with pytest.raises(ValueError, match=r"a MoD block of 64 channels takes \(N, 64, H, W\)"):
        lowered.layer1[1](torch.rand(1, 63, 8, 8))
    with pytest.raises(ValueError, match=r"for inference: call it under torch\.inference_mode"):
        lowered(torch.rand(1, 3, 64, 64, requires_grad=True))


def test_lowered_network_can_become_a_control():
    lowered = control_(lower(build("resnet18_mod")))
    assert lowered(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_layers_with_hooks_are_not_folded():
    """The hooks change the output of a norm and of a convolution."""
    model = trained_norms_(build("resnet18_cifar"))
    model.bn1.register_forward_hook(lambda module, inputs, output: output * 2)
    model.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: output * 0)
    x_NCHW = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(lower(model)(x_NCHW), model(x_NCHW), atol=1e-4, rtol=1e-3)


class TestUncopyableTensors:
    """Tensors of a training step raise an error that names them and says what to do."""

    def check(self, model, message):
        x_NCHW = torch.rand(2, 1, 8, 8)
        model.train()(x_NCHW)
        for runtime in ("eager", "onnxruntime"):
            with pytest.raises(ValueError, match=message) as caught:
                lower(model, runtime, example=SMALL)
            assert "\n" not in str(caught.value)
        with torch.no_grad():
            model(x_NCHW)
        lower(model, example=SMALL)

    def test_pruned_weight_is_named(self, small_resnet):
        prune.l1_unstructured(small_resnet.layer1[0].conv1, "weight", 0.5)
        self.check(small_resnet, r"layer1\.0\.conv1\.weight cannot be copied: .*torch\.nn\.utils\.prune\.remove")

    @pytest.mark.parametrize(
        "keep",
        [lambda y: y, lambda y: [y], lambda y: {"y": (y,)}, lambda y: SimpleNamespace(y=y)],
        ids=["itself", "list", "dict", "object"],
    )
    def test_kept_activation_is_named(self, small_resnet, keep):
        class Keeping(nn.Conv2d):
            def forward(self, x):
                self.seen = keep(super().forward(x))
                return super().forward(x)

        small_resnet.layer2[0].conv1.__class__ = Keeping
        self.check(small_resnet, r"layer2\.0\.conv1\.seen cannot be copied: .*once under torch\.no_grad")

    def test_buffer_is_named(self, small_resnet):
        small_resnet.layer1.register_buffer("mean", torch.zeros(1))
        small_resnet.layer1.register_forward_hook(lambda module, _, output: setattr(module, "mean", output.mean()))
        self.check(small_resnet, r"layer1\.mean cannot be copied")

    def test_weight_of_old_weight_norm_is_named(self):
        """torch.nn.utils.weight_norm, which is deprecated, keeps the computed weight."""
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        with pytest.warns(FutureWarning, match="deprecated"):
            nn.utils.weight_norm(model[3])
        self.check(model, r"3\.weight cannot be copied")
