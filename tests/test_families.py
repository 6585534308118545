"""Convert networks of timm and torchvision: a few by default, one of each family and all networks with `-m slow`."""

import json
from pathlib import Path

import pytest

import families

QUICK = {  # small networks with different blocks
    "timm/resnet18",
    "timm/convnext_atto",
    "timm/cs3darknet_s",
    "torchvision/shufflenet_v2_x0_5",
}
RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "families.json"
SMALL = [
    "resnet18",
    "resnet26d",
    "seresnet18",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "ecaresnet26t",
    "gcresnext26ts",
    "resnetv2_18",
    "resnetv2_50x1_bit",
    "res2net50_26w_4s",
    "resnest26d",
    "skresnet18",
    "regnetx_002",
    "regnety_002",
    "regnetz_b16",
    "repvgg_a0",
    "mobileone_s0",
    "efficientnet_b0",
    "efficientnet_lite0",
    "efficientnetv2_rw_t",
    "mixnet_s",
    "mnasnet_small",
    "fbnetc_100",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050",
    "lcnet_050",
    "hardcorenas_a",
    "ghostnet_050",
    "repghostnet_050",
    "convnext_atto",
    "convnextv2_atto",
    "inception_next_atto",
    "mambaout_femto",
    "focalnet_tiny_srf",
    "poolformer_s12",
    "convformer_s18",
    "edgenext_xx_small",
    "fasternet_t0",
    "starnet_s050",
    "shvit_s1",
    "swiftformer_xs",
    "efficientformerv2_s0",
    "efficientformer_l1",
    "repvit_m0_9",
    "fastvit_t8",
    "nextvit_small",
    "mobilevitv2_050",
    "coatnet_pico_rw_224",
    "maxvit_rmlp_pico_rw_256",
    "tiny_vit_5m_224",
    "visformer_tiny",
    "lowformer_b0",
    "vitamin_small_224",
    "hrnet_w18_small",
    "dla34",
    "dla46_c",
    "xception41",
    "inception_resnet_v2",
    "hgnetv2_b0",
    "cspresnet50",
    "darknet21",
    "cs3darknet_s",
    "vovnet39a",
    "tresnet_m",
    "nfnet_f0",
    "convmixer_768_32",
    "vgg11_bn",
    "vgg11",
    "lambda_resnet26t",
]
TORCHVISION = [
    "resnet18",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "convnext_tiny",
    "vgg11",
    "vgg11_bn",
    "regnet_y_400mf",
    "regnet_x_400mf",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "alexnet",
]
NONE = {
    "timm/densenet121": "DenseLayer: its input is a list",
    "torchvision/densenet121": "_DenseLayer: its input is a list",
    "timm/rexnet_100": "LinearBottleneck: it changes its input's shape",
    "timm/resnet10t": "it changes its input's shape",
    "timm/vit_tiny_patch16_224": "PatchEmbed: its output is (1, 196, 192)",
    "timm/levit_conv_128s": "its blocks have attention",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in [f"timm/{name}" for name in SMALL] + [f"torchvision/{name}" for name in TORCHVISION]
    ],
)
@pytest.mark.filterwarnings("ignore")  # warnings of the libraries' constructors
def test_network_can_be_converted(name):
    row = families.survey(name)
    assert row.outcome == "works", row.reason
    assert row.mod_blocks > 0


@pytest.mark.parametrize("name", NONE)
def test_network_without_convertible_modules_is_refused(name):
    row = families.survey(name)
    assert row.outcome == "none"
    assert NONE[name] in row.reason


def committed():
    return [families.Row(**row) for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"]]


def test_at_least_95_percent_of_timm_networks_work():
    counted = [row.outcome == "works" for row in committed() if row.name.startswith("timm/") and row.outcome != "none"]
    assert len(counted) > 500
    assert sum(counted) / len(counted) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", families.names())
@pytest.mark.filterwarnings("ignore")  # warnings of the libraries' constructors
def test_outcome_equals_the_committed_result(name):
    expected = {row.name: row.outcome for row in committed()}
    assert families.survey(name).outcome == expected[name]
