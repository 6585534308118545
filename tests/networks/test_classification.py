"""Test sizes, forward and backward passes, features, classes and channels of all classification networks."""

import json
from importlib import resources
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models import MobileNetV2, mobilenet_v2

from cnnmod import MoDConfig, control_, convert_, count, mod_blocks
from cnnmod.networks import build, cifar, classification

NAMES = [*classification.default_cfgs, *cifar.default_cfgs]
MOD = [name for name in NAMES if name.endswith(("_mod", "_mod_l"))]
QUICK = {
    *("resnet18_mod", "resnet50_mod", "mobilenetv2_mod"),
    *("resnet18_cifar", "resnet18_cifar_mod", "vgg16_bn_cifar_mod"),
}
LARGE = {"resnet75_mod", "resnet86_mod", "resnet101_mod", "resnet152_mod"}
of_every_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
MOBILENETV2_L = [
    [1, 16, 1, 1],
    [6, 32, 2, 2],
    [6, 64, 3, 2],
    [6, 96, 4, 2],
    [6, 128, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]
EXACT = {
    "resnet50_mod": 18_105_949,
    "resnet75_mod": 23_100_253,
    "resnet86_mod": 25_597_405,
    "resnet101_mod": 29_211_741,
    "resnet152_mod": 37_460_437,
}
EXACT_CONTROLS = {"resnet50_mod": 17_112_360, "resnet75_mod": 21_581_096, "resnet86_mod": 23_815_464}
MILLIONS = {
    "resnet18_mod": 5.464,
    "resnet26_mod": 11.399,
    "resnet34_mod": 12.934,
    "resnet42_mod": 17.721,
    "mobilenetv2_mod": 2.944,
    "mobilenetv2_mod_l": 3.344,
}
GMACS_PTFLOPS = {
    "resnet50": 4.132,
    "resnet26_mod": 1.362,
    "resnet34_mod": 2.059,
    "resnet42_mod": 2.290,
    "resnet50_mod": 2.596,
    "resnet75_mod": 3.477,
    "resnet86_mod": 3.917,
    "resnet101_mod": 4.577,
    "resnet152_mod": 6.342,
    "mobilenetv2": 0.320363,
    "mobilenetv2_mod": 0.220558,
    "mobilenetv2_mod_l": 0.344760,
}
GMACS = {
    "resnet50": 4.089,
    "resnet50_mod": 2.562,
    "resnet75_mod": 3.436,
    "resnet86_mod": 3.873,
    "resnet101_mod": 4.529,
    "resnet152_mod": 6.277,
    "mobilenetv2_100": 0.3008,
    "mobilenetv2_mod": 0.2061,
    "mobilenetv2_mod_l": 0.3269,
}


def without_weights(name):
    with torch.device("meta"):
        return build(name)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", EXACT)
def test_parameters_equal_the_paper_exactly(name):
    model = without_weights(name)
    assert parameters(model) == EXACT[name]
    if name in EXACT_CONTROLS:
        assert parameters(control_(model)) == EXACT_CONTROLS[name]


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_equal_the_paper_to_three_decimals(name):
    assert round(parameters(without_weights(name)) / 1e6, 3) == MILLIONS[name]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in GMACS],
)
def test_gmacs_of_convolutions_and_linear_layers_are_correct(name):
    digits = 4 if GMACS[name] < 1 else 3
    assert round(count(without_weights(name)).gmacs, digits) == GMACS[name]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("resnet50_mod", "mobilenetv2_mod") else pytest.mark.slow)
        for name in GMACS_PTFLOPS
    ],
)
def test_ptflops_gmacs_equal_the_paper(name):
    """torchvision's MobileNets are used, since ptflops does not count the fused norm-activation layers of timm."""
    from ptflops import get_model_complexity_info

    if name.startswith("mobilenetv2"):
        model = MobileNetV2(inverted_residual_setting=MOBILENETV2_L) if name.endswith("_l") else mobilenet_v2()
        model = convert_(model) if "mod" in name else model
    else:
        model = build(name)
    macs, _ = get_model_complexity_info(model.eval(), (3, 224, 224), as_strings=False, print_per_layer_stat=False)
    assert macs / 1e9 == pytest.approx(GMACS_PTFLOPS[name], rel=0.003)


class TestMatrix:
    def example(self, name, channels=3):
        return torch.rand(2, channels, 32, 32) if "cifar" in name or "vgg" in name else torch.rand(2, channels, 64, 64)

    @of_every_family
    def test_backward_reaches_every_parameter(self, name):
        model = build(name, num_classes=7)
        logits = model(self.example(name))
        assert logits.shape == (2, 7)
        logits.sum().backward()
        assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
        assert bool(mod_blocks(model)) == (name in MOD)

    @of_every_family
    def test_features_only_returns_the_listed_channels_and_sizes(self, name):
        model = build(name, features_only=True, in_chans=1).eval()
        x_NCHW = self.example(name, 1)
        features = model(x_NCHW)
        assert [feature.shape[1] for feature in features] == model.feature_info.channels()
        sizes = [x_NCHW.shape[-1] // reduction for reduction in model.feature_info.reduction()]
        assert [feature.shape[-1] for feature in features] == sizes
        assert bool(mod_blocks(model)) == (name in MOD)

    @pytest.mark.parametrize("name", NAMES)
    def test_is_registered_and_has_no_pretrained_weights(self, name):
        assert timm.is_model(name)
        assert not timm.is_model_pretrained(name)
        with pytest.raises(ValueError, match=f"no pretrained weights are published for {name}"):
            timm.create_model(name, pretrained=True)


def test_config_and_reset_classifier_are_supported():
    model = build("resnet18_mod", config=MoDConfig(c=32, order="index"))
    assert {block.config.order for block in mod_blocks(model).values()} == {"index"}
    assert mod_blocks(model)["layer1.1"].k == 2
    model.reset_classifier(3)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 3)


def test_paper_figures_equal_the_shared_facts():
    """The figures above and the packaged figures equal the project's facts, if the file with the facts exists."""
    path = Path(__file__).parents[3] / "shared" / "paper_figures.json"
    if not path.exists():
        pytest.skip("the file with the paper's figures does not exist")
    facts = json.loads(path.read_text())
    assert facts["gmacs_ptflops_3_decimals"] == GMACS_PTFLOPS
    assert facts["parameters_m_3_decimals"] == MILLIONS
    assert {name: facts["exact_parameters"][name] for name in EXACT} == EXACT
    packaged = json.loads((resources.files("cnnmod.networks") / "paper.json").read_text())["rows"]
    for name, (top1, gmacs, millions, cpu_ms, gpu_ms) in facts["imagenet"].items():
        if isinstance(top1, float) and (row := packaged.get({"mobilenetv2": "mobilenetv2_100"}.get(name, name))):
            assert [row[key] for key in ("accuracy_pct", "gmacs_ptflops", "parameters_m", "cpu_ms", "gpu_ms")] == [
                top1,
                gmacs,
                millions,
                cpu_ms,
                gpu_ms,
            ]
