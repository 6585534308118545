import copy
import logging
import time

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.resnet import BasicBlock
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnmod import MoDBlock, MoDConfig, control_, convert_, mod_blocks
from cnnmod.measure.memory import peak_memory_mib
from cnnmod.networks import build
from conftest import trained_norms_
from small import digits_resnet, shallow_resnet, tiny_network

SMALL = {"example": torch.rand(1, 1, 8, 8)}


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(before, model):
    after = model.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_converts_in_place_and_returns_the_model():
    model = build("resnet18")
    assert convert_(model) is model
    assert list(mod_blocks(model)) == ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert {name: (block.channels, block.k) for name, block in mod_blocks(model).items()} == {
        "layer1.1": (64, 1),
        "layer2.1": (128, 2),
        "layer3.1": (256, 4),
        "layer4.1": (512, 8),
    }


def test_other_layers_are_unchanged():
    model = build("resnet50").to(memory_format=torch.channels_last).eval()
    before = bits(model)
    convert_(model)
    for name, tensor in model.state_dict().items():
        if not name.startswith(tuple(mod_blocks(model))):
            assert torch.equal(before[name], tensor)
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_new_blocks_have_the_dtype_of_the_host(dtype):
    model = convert_(build("resnet18").to(dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MoDConfig(), ["layer1.1", "layer2.1", "layer3.1", "layer3.3", "layer4.1"]),
        (MoDConfig(placement=("layer3.3", "layer1.1")), ["layer1.1", "layer3.3"]),
        (MoDConfig(placement=lambda module, position: module == 2 and position == 2), ["layer3.2"]),
    ],
)
def test_placement_chooses_blocks(config, expected):
    model = convert_(
        torchvision.models.resnet._resnet(torchvision.models.resnet.BasicBlock, [3, 2, 4, 2], None, False), config
    )
    assert list(mod_blocks(model)) == expected


def test_placement_all_skips_the_first_block_of_each_module():
    model = convert_(build("resnet50"), MoDConfig(placement="all"))
    assert len(mod_blocks(model)) == 2 + 3 + 5 + 2
    assert not any(name.endswith(".0") for name in mod_blocks(model))


def test_callable_placement_is_stored_as_names():
    model = convert_(build("resnet18"), MoDConfig(placement=lambda module, position: module > 1))
    assert {block.config.placement for block in mod_blocks(model).values()} == {("layer3.1", "layer4.1")}


def test_filter_fn_restricts_the_blocks():
    seen = []

    def only_late(block, name):
        seen.append(type(block).__name__)
        return name.startswith("layer4")

    assert list(mod_blocks(convert_(build("resnet50"), filter_fn=only_late))) == ["layer4.1"]
    assert set(seen) == {"Bottleneck"}


@pytest.mark.parametrize(
    ("network", "c"),
    [("resnet50", 64), ("mobilenetv2_100", 16), ("vgg11_bn", 64), ("vgg16_bn", 64), ("convnext_tiny", 96)],
)
def test_default_c_is_the_width_of_the_paper(network, c):
    with torch.device("meta"):
        model = build(network)
    for block in mod_blocks(convert_(model)).values():
        assert block.k == max(1, block.channels // c)


def test_c_divides_all_widths():
    ks = [block.k for block in mod_blocks(convert_(build("resnet18"), MoDConfig(c=100))).values()]
    assert ks == [1, 1, 2, 5]  # the first module has fewer channels than c, so its widths are divided by 64


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn_cifar"])
def test_converted_networks_can_be_trained(name):
    model = convert_(build(name, num_classes=10))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "config",
    [
        # With the default reduction, a selector has one hidden unit, which may be zero for all images.
        MoDConfig(c=4, reduction=2),
        MoDConfig(c=4, reduction=2, residual=False),
        MoDConfig(c=4, reduction=1),
        MoDConfig(c=4, reduction=2, placement="all"),
        MoDConfig(c=1, reduction=2),
    ],
    ids=str,
)
def test_two_training_steps_change_every_parameter(config):
    model = convert_(digits_resnet(), config, **SMALL)
    before = bits(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.rand(16, 1, 8, 8)), torch.arange(16) % 10).backward()
        optimizer.step()
    assert [name for name, tensor in model.named_parameters() if torch.equal(before[name], tensor)] == []


def without_blocks(model, names):
    """Delete the blocks from their sequentials."""
    for name in reversed(names):
        parent, _, child = name.rpartition(".")
        del model.get_submodule(parent)[int(child)]
    return model


def test_control_equals_the_network_with_its_blocks_deleted():
    model = build("resnet34").eval()
    names = list(mod_blocks(convert_(copy.deepcopy(model))))
    control = control_(convert_(copy.deepcopy(model)))
    shallow = without_blocks(copy.deepcopy(model), names)
    x_NCHW = torch.rand(2, 3, 64, 64)
    assert torch.equal(control(x_NCHW), shallow(x_NCHW))
    assert sum(map(torch.numel, control.parameters())) == sum(map(torch.numel, shallow.parameters()))


def test_control_of_vgg_equals_the_network_with_its_blocks_deleted():
    model = build("vgg16_bn_cifar").eval()
    control = control_(convert_(copy.deepcopy(model)))
    shallow = copy.deepcopy(model)
    for start in (37, 27, 17, 10, 3):
        del shallow.features[start : start + 3]
    x_NCHW = torch.rand(2, 3, 32, 32)
    assert torch.equal(control(x_NCHW), shallow(x_NCHW))


@given(st.integers(0, 10**6), st.sampled_from(["learned", "random", "first"]), st.integers(1, 20))
@settings(max_examples=8, deadline=None)
def test_selection_is_per_image(seed, select, c):
    torch.manual_seed(seed)
    model = convert_(shallow_resnet(), MoDConfig(c=c, select=select), **SMALL).eval()
    x_NCHW = torch.rand(3, 1, 8, 8)
    whole = model(x_NCHW)
    for image in range(3):
        torch.testing.assert_close(whole[image : image + 1], model(x_NCHW[image : image + 1]), atol=1e-5, rtol=1e-4)


def test_compiles_to_one_graph():
    model = convert_(tiny_network(), MoDConfig(c=4), **SMALL).eval()
    x_NCHW = torch.rand(2, 1, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_NCHW), model(x_NCHW))


def test_logs_the_converted_blocks(caplog):
    with caplog.at_level(logging.INFO, logger="cnnmod"):
        convert_(build("resnet18"))
    assert "converted 4 blocks of ResNet to MoD blocks, c = 64: layer1.1, layer2.1, layer3.1, layer4.1" in caplog.text


@pytest.mark.parametrize(
    ("name", "select"),
    [
        ("resnet18", "learned"),
        ("mobilenetv2_100", "random"),
        ("convnext_atto", "first"),
        ("vgg16_bn_cifar", "learned"),
        *(
            pytest.param(name, select, marks=pytest.mark.slow)
            for name, select in (
                *(("resnet18", select) for select in ("random", "first")),
                *(("mobilenetv2_100", select) for select in ("learned", "first")),
                *(("convnext_atto", select) for select in ("learned", "random")),
                *(("vgg16_bn_cifar", select) for select in ("random", "first")),
            )
        ),
    ],
)
def test_identity_start_equals_the_control(name, select):
    model = trained_norms_(build(name))
    convert_(model, MoDConfig(identity_start=True, select=select))
    x_NCHW = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(x_NCHW), control_(copy.deepcopy(model))(x_NCHW))


def test_identity_start_can_be_trained():
    model = convert_(digits_resnet(), MoDConfig(c=4, reduction=2, identity_start=True), **SMALL)
    before = bits(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(4):  # first the gains change, then norms that are initialized to zero, then all other parameters
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.rand(16, 1, 8, 8)), torch.arange(16) % 10).backward()
        optimizer.step()
    assert [name for name, tensor in model.named_parameters() if torch.equal(before[name], tensor)] == []


def test_nhwc_blocks_are_converted():
    """The blocks of MambaOut take and return (N, H, W, C)."""
    model = build("timm/mambaout_femto").eval()
    shallow = copy.deepcopy(model)
    convert_(model)
    names = list(mod_blocks(model))
    x_NCHW = torch.rand(3, 3, 64, 64)
    whole = model(x_NCHW)
    for image in range(3):
        torch.testing.assert_close(whole[image : image + 1], model(x_NCHW[image : image + 1]), atol=1e-5, rtol=1e-4)
    features = torch.rand(2, 5, 6, 96)
    after = mod_blocks(model)["stages.1.blocks.1"](features)
    assert after.shape == features.shape
    assert torch.equal(after[..., 2:], features[..., 2:])  # k = 96 // 48
    assert not torch.equal(after[..., :2], features[..., :2])
    assert torch.equal(control_(model)(x_NCHW), without_blocks(shallow, names)(x_NCHW))


def test_torch_fx_traces_converted_networks():
    """torchvision's feature extraction uses torch.fx."""
    for select in ("learned", "random", "first"):
        model = convert_(build("torchvision/resnet18"), MoDConfig(select=select, identity_start=True)).eval()
        nn.init.ones_(model.layer2[1].gain_K)
        x_NCHW = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x_NCHW), model(x_NCHW))
    features = create_feature_extractor(model, {"layer1": "early", "layer3": "late"})(x_NCHW)
    assert {name: tuple(tensor.shape) for name, tensor in features.items()} == {
        "early": (2, 64, 16, 16),
        "late": (2, 256, 4, 4),
    }


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "regnety_002",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_b0", "vgg11_bn", "convnext_atto")),
    ],
)
def test_features_only_networks_are_converted(name):
    dense = timm.create_model(name, features_only=True).eval()
    model = convert_(copy.deepcopy(dense))
    assert mod_blocks(model)
    x_NCHW = torch.rand(1, 3, 64, 64)
    assert [map_.shape for map_ in model(x_NCHW)] == [map_.shape for map_ in dense(x_NCHW)]


def test_gradient_checkpointing_is_supported():
    plain = convert_(build("resnet18"))
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x_NCHW = torch.rand(2, 3, 64, 64)
    for model in (plain, saving):
        model(x_NCHW).square().mean().backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def test_moving_average_is_supported():
    model = convert_(digits_resnet(), MoDConfig(c=8), **SMALL)
    average = ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update(model)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name) - 0.5)
    assert mod_blocks(average.module).keys() == mod_blocks(model).keys()


def train_step(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = convert_(digits_resnet(), MoDConfig(c=8), **SMALL)
    images = torch.rand(4, 1, 8, 8)
    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped(images[2 * rank : 2 * rank + 2]).square().mean().backward()
    torch.save([parameter.grad for parameter in model.parameters()], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ddp_trains_on_two_processes(tmp_path):
    torch.multiprocessing.spawn(train_step, (tmp_path,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]  documented
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    assert all(gradient.any() for gradient in first[-2:])


@pytest.mark.slow
def test_converting_resnet152_needs_little_memory():
    model = build("resnet152")
    parameters_mib = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 2**20
    assert peak_memory_mib(lambda: convert_(model)) < 2 * parameters_mib


@pytest.mark.slow  # fails on a busy machine
def test_converting_resnet152_takes_less_than_a_second():
    times_s: list[float] = []
    for _ in range(3):
        model = build("resnet152")
        start = time.perf_counter()
        convert_(model)
        times_s.append(time.perf_counter() - start)
    assert min(times_s) < 1


class TestErrors:
    """Every error leaves the model unchanged."""

    def check(self, model, message, *args, **kwargs):
        before, modules = bits(model), list(map(type, model.modules()))
        with pytest.raises(ValueError, match=message):
            convert_(model, *args, **kwargs)
        assert same(before, model)
        assert modules == list(map(type, model.modules()))

    def test_converted_model_raises(self):
        model = convert_(build("resnet18"))
        self.check(model, r"already converted: layer1\.1 is a MoD block \(4 in total\)")

    def test_network_without_blocks_raises(self):
        self.check(nn.Sequential(nn.Conv2d(3, 4, 3)), "nothing to convert")

    def test_filter_that_accepts_nothing_raises(self):
        self.check(
            build("resnet18"),
            "filter_fn accepts none of the blocks .* of type .'BasicBlock'",
            filter_fn=lambda *_: False,
        )

    def test_placement_that_chooses_nothing_raises(self):
        self.check(build("resnet18"), "chooses none of the 4 blocks", MoDConfig(placement=lambda *_: False))

    def test_unknown_block_name_in_placement_raises(self):
        config = MoDConfig(placement=("layer1.0",))
        self.check(build("resnet18"), r"placement names 'layer1\.0', but the blocks that can be MoD blocks are", config)

    def test_wrapped_model_raises(self):
        self.check(nn.DataParallel(build("resnet18")), "before it is wrapped in DataParallel")
        self.check(torch.compile(build("resnet18")), "before it is wrapped in OptimizedModule")

    def test_too_small_example_raises(self):
        self.check(build("vgg16_bn_cifar"), "does not run on an example", example=torch.zeros(1, 3, 4, 4))

    def test_wrong_number_of_channels_raises(self):
        self.check(
            build("resnet18"),
            r"does not run on an example of shape \(1, 1, 64, 64\)",
            example=torch.zeros(1, 1, 64, 64),
        )

    def test_object_that_is_not_a_module_raises(self):
        with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, not str"):
            convert_("resnet18")

    def test_host_that_needs_the_original_block_raises(self):
        class Host(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = build("resnet18").layer1

            def forward(self, x):
                x = self.blocks(x.expand(-1, 64, -1, -1))
                assert self.blocks[1].conv1.out_channels == 64, "no"
                return x

        model = Host()
        self.check(model, r"Host does not run on an example", example=torch.zeros(1, 1, 9, 9))

    def test_block_called_twice_raises(self):
        block = nn.Sequential(*(BasicBlock(16, 16) for _ in range(2)))
        model = nn.Sequential(nn.Conv2d(3, 16, 1), block, block)
        self.check(model, "BasicBlock: the network calls it 2 times, as 1.0 and 2.0 or .*, as 1.1 and 2.1")

    def test_blocks_in_a_plain_list_raise(self):
        class Listing(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Sequential(*(BasicBlock(16, 16) for _ in range(4)))
                self.blocks = list(self.layer)

            def forward(self, x):
                for block in self.blocks:
                    x = block(x)
                return x

        message = r"layer\.1 is also in the plain list blocks, where it cannot be replaced"
        self.check(Listing(), message, MoDConfig(c=4), example=torch.rand(1, 16, 8, 8))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"config": None}, "config must be a MoDConfig, a mapping or .*, not NoneType"),
            ({"example": (1, 3, 9, 9)}, "example must be a tensor"),
        ],
    )
    def test_arguments_of_another_type_raise(self, arguments, message):
        self.check(build("resnet18"), message, **arguments)

    def test_control_without_mod_blocks_raises(self):
        with pytest.raises(ValueError, match="ResNet has no MoD block"):
            control_(build("resnet18"))


def test_ddp_wrapped_model_raises(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 4, 1)))
        with pytest.raises(ValueError, match="before it is wrapped in DistributedDataParallel"):
            convert_(wrapped)
    finally:
        torch.distributed.destroy_process_group()


def test_c_does_not_depend_on_the_chosen_blocks():
    for arguments in (
        {"filter_fn": lambda block, name: "layer4" in name},
        {"config": MoDConfig(placement=("layer4.1",))},
    ):
        block = mod_blocks(convert_(build("resnet50"), **arguments))["layer4.1"]
        assert (block.k, block.config.c) == (32, 64)


class Twice(nn.Module):
    """A network that registers each block under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = BasicBlock(16, 16), BasicBlock(16, 16)
        self.body = nn.Sequential(self.first, self.second)

    def forward(self, x):
        return self.body(x)


def test_block_registered_twice_is_replaced_in_both_places():
    model, example = Twice(), torch.rand(2, 16, 8, 8)
    before = bits(model)
    convert_(model, MoDConfig(c=4), example=example)
    assert model.body[1] is model.second
    assert isinstance(model.second, MoDBlock)
    assert torch.equal(before["first.conv1.weight"], model.body[0].conv1.weight)
    model(example).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert control_(model).body[1] is model.second


def test_wrapped_submodule_raises():
    with pytest.raises(ValueError, match="before it is wrapped in DataParallel"):
        convert_(nn.Sequential(nn.DataParallel(build("resnet18"))))
