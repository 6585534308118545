import dataclasses
import itertools
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

import format2
from cnnmod import MoDConfig, control_, convert_, load_, lower, mod_blocks, save
from cnnmod.method.structure import read_structure
from cnnmod.networks import build
from format1 import FILE, IMAGES, small_network
from small import digits_resnet, shallow_resnet

SMALL = {"example": torch.rand(1, 1, 8, 8)}
CONFIGS = [
    MoDConfig(c=8),
    MoDConfig(c=8, select="random"),
    MoDConfig(c=8, select="random", order="index"),
    MoDConfig(c=8, select="first"),
    MoDConfig(c=8, order="index", scale="input", fuse_to="all"),
    MoDConfig(c=8, select="first", scale="none", fuse_to="all"),
    MoDConfig(c=8, order="index"),
    MoDConfig(c=8, fuse_to="last"),
    MoDConfig(c=8, fuse_to="original"),
    MoDConfig(c=4, candidates=1),
    MoDConfig(c=8, reduction=4),
    MoDConfig(c=8, residual=False),
    MoDConfig(c=8, identity_start=True),
    MoDConfig(c=8, placement="all"),
    MoDConfig(c=8, placement=("layer1.1", "layer2.1")),
    MoDConfig(c=8, placement=lambda module, position: position == 1 and module == 1),
]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "mod.safetensors"
    save(convert_(digits_resnet(), MoDConfig(c=8), **SMALL), path)
    return path


def check_untouched(model, action, error, message):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [*map(type, model.modules())]
    with pytest.raises(error, match=message):
        action(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modules == [*map(type, model.modules())]


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param("resnet18", marks=pytest.mark.slow),
        "vgg16_bn_cifar",
        pytest.param("torchvision/mobilenet_v2", marks=pytest.mark.slow),
    ],
)
def test_control_round_trip(factory, tmp_path):
    model = control_(convert_(build(factory))).eval()
    save(model, tmp_path / "file")
    x_NCHW = torch.rand(2, 3, 64, 64)
    for fresh in (build(factory), control_(convert_(build(factory)))):
        assert torch.equal(load_(fresh, tmp_path / "file").eval()(x_NCHW), model(x_NCHW))
    message = "is of a control, but the model is a MoD network"
    check_untouched(convert_(build(factory)), lambda model: load_(model, tmp_path / "file"), ValueError, message)


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip(config, tmp_path):
    model = convert_(shallow_resnet(), config, **SMALL).eval()
    save(model, tmp_path / "file")
    fresh = load_(shallow_resnet(), tmp_path / "file", **SMALL).eval()
    x_NCHW = torch.rand(4, 1, 8, 8)
    assert torch.equal(fresh(x_NCHW), model(x_NCHW))
    for ours, theirs in zip(mod_blocks(fresh).values(), mod_blocks(model).values(), strict=True):
        assert ours.config == theirs.config
    assert load_(fresh, tmp_path / "file") is fresh  # a converted network can load the file too


def test_vgg_in_channels_last_round_trip(tmp_path):
    model = build("vgg16_bn_cifar_mod").to(memory_format=torch.channels_last).eval()
    save(model, tmp_path / "file")
    fresh = load_(build("vgg16_bn_cifar"), tmp_path / "file").eval()
    x_NCHW = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(fresh(x_NCHW), model(x_NCHW))


def test_conversion_with_filter_round_trip(tmp_path):
    model = convert_(digits_resnet(), MoDConfig(c=8), filter_fn=lambda block, name: "layer2" in name, **SMALL)
    save(model, tmp_path / "file")
    assert list(mod_blocks(load_(digits_resnet(), tmp_path / "file", **SMALL))) == list(mod_blocks(model))


def test_dense_network_round_trip(tmp_path, small_resnet):
    save(small_resnet, tmp_path / "file")
    fresh = load_(digits_resnet(), tmp_path / "file").eval()
    x_NCHW = torch.rand(2, 1, 8, 8)
    assert torch.equal(fresh(x_NCHW), small_resnet(x_NCHW))


def test_truncated_file_raises(saved):
    whole = saved.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        message = "is truncated or not a safetensors file" if length else "is empty"
        check_untouched(digits_resnet(), lambda model: load_(model, saved, **SMALL), ValueError, message)


@pytest.mark.parametrize("zip_format", [True, False])
def test_pickles_are_refused(tmp_path, zip_format):
    path = tmp_path / "model.pt"
    torch.save(digits_resnet().state_dict(), path, _use_new_zipfile_serialization=zip_format)
    check_untouched(digits_resnet(), lambda model: load_(model, path), ValueError, "is a pickle")


def test_file_of_another_library_raises(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file(digits_resnet().state_dict(), path)
    check_untouched(digits_resnet(), lambda model: load_(model, path), ValueError, r"was not written by cnnmod\.save")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": 1}', '{"format": "new", "blocks": {}}', '{"format": 1, "blocks": ["layer1.1"]}']
    + [f'{{"format": 1, "blocks": {{"layer1.1": {config}}}}}' for config in ("5", '{"c": -1}', '{"cc": 1}')]
    + [
        f'{{"format": 1, "blocks": {{}}, "factory": {{"name": {name}, "args": {{}}}}}}'
        for name in ("5", '["a"]', '"x"')
    ]
    + ["[" * 100_000],
)
def test_invalid_metadata_raises(tmp_path, text):
    path = tmp_path / "corrupted.safetensors"
    save_file(digits_resnet().state_dict(), path, metadata={"cnnmod": text})
    check_untouched(digits_resnet(), lambda model: load_(model, path), ValueError, "the entry 'cnnmod' of its metadata")


def test_newer_format_raises(tmp_path):
    path = tmp_path / "later.safetensors"
    save_file(digits_resnet().state_dict(), path, metadata={"cnnmod": '{"format": 3}'})
    check_untouched(digits_resnet(), lambda model: load_(model, path), ValueError, "has format 3; .* formats up to 2")


def test_file_of_another_network_raises(saved):
    message = r"is of another network: layer2\.3 is a MoD block in the file, but not a block of the model"
    check_untouched(build("resnet18", in_chans=1), lambda model: load_(model, saved), ValueError, message)
    other = digits_resnet()
    other.fc = nn.Linear(128, 11)
    message = r"is of another network: fc\.weight is \(10, 128\) in the file, \(11, 128\) in the model"
    check_untouched(other, lambda model: load_(model, saved, **SMALL), ValueError, message)
    other.extra = nn.Linear(1, 1)
    other.fc = nn.Linear(128, 10)
    message = r"extra\.weight is missing in the file, \(1, 1\) in the model"
    check_untouched(other, lambda model: load_(model, saved, **SMALL), ValueError, message)


def test_different_conversion_raises(saved, tmp_path):
    other = convert_(digits_resnet(), MoDConfig(c=8, order="index"), **SMALL)
    message = r"was saved with MoDConfig\(.*order='score'.* at layer1\.1, but the model has MoDConfig\(.*order='index'"
    check_untouched(other, lambda model: load_(model, saved), ValueError, message)
    fewer = convert_(digits_resnet(), MoDConfig(c=8, placement=("layer2.1",)), **SMALL)
    check_untouched(
        fewer,
        lambda model: load_(model, saved),
        ValueError,
        r"has the MoD blocks .* model has \['layer2\.1'\]",
    )


def test_missing_file_and_folder_raise(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_(digits_resnet(), tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        save(digits_resnet(), tmp_path / "nowhere" / "file")
    assert not [*tmp_path.iterdir()]


def test_round_trip_covers_every_config_field():
    defaults = dataclasses.asdict(MoDConfig())
    fields = itertools.chain.from_iterable(
        [name for name, value in defaults.items() if getattr(config, name) != value] for config in CONFIGS
    )
    assert set(fields) == set(defaults)


def test_blocks_with_different_configs_round_trip(tmp_path):
    def pair():
        return nn.ModuleDict({"a": digits_resnet(), "b": digits_resnet()})

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets = pair()

        def forward(self, x):
            return self.nets["a"](x) + self.nets["b"](x)

    model = Pair().eval()
    convert_(model.nets["a"], MoDConfig(c=8, fuse_to="first"), **SMALL)
    convert_(model.nets["b"], MoDConfig(c=4, fuse_to="last"), **SMALL)
    save(model, tmp_path / "file")
    x_NCHW = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_(Pair(), tmp_path / "file", **SMALL).eval()(x_NCHW), model(x_NCHW))


def test_layers_with_versioned_state_dicts_are_loaded(tmp_path):
    from torchvision.models import mnasnet0_5

    save(convert_(mnasnet0_5()), tmp_path / "file")
    assert mod_blocks(load_(mnasnet0_5(), tmp_path / "file"))


def test_wrapped_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="before it is wrapped in DataParallel"):
        save(nn.DataParallel(digits_resnet()), tmp_path / "file")
    assert not [*tmp_path.iterdir()]


def test_format_1_can_be_read():
    """Every later version must read this file. tests/format1.py wrote it."""
    model = load_(small_network(8), FILE, example=IMAGES).eval()
    expected = [
        [0.37192749977111816, -35.30234909057617, -7.590439319610596],
        [-1.8966495990753174, 5.598014831542969, -8.044679641723633],
    ]
    torch.testing.assert_close(model(IMAGES), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert list(mod_blocks(model)) == ["1.1", "1.3"]
    assert {block.config for block in mod_blocks(model).values()} == {MoDConfig(c=4, reduction=2, identity_start=True)}
    assert read_structure(FILE)[1:] == ([], False, "format1:small_network", {"width": 8})


def test_format_2_can_be_read():
    """Every later version must read this file. tests/format2.py wrote it."""
    model = load_(small_network(8), format2.FILE, example=IMAGES).eval()
    expected = [[-0.25216749, -0.04336892, -0.15299661], [-0.19495742, -0.01033753, -0.20635387]]
    torch.testing.assert_close(model(IMAGES), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert list(mod_blocks(model)) == ["1.1"]
    assert read_structure(format2.FILE).skipped == ["1.2"]


@pytest.mark.parametrize(
    "name",
    [
        "mambaout_femto",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("lowformer_b0", "dla46_c", "maxvit_tiny_rw_224", "dla34", "convmixer_768_32")
        ),
    ],
)
def test_parts_layouts_trees_and_sequentials_round_trip(name, tmp_path):
    model = convert_(build(f"timm/{name}")).eval()
    save(model, tmp_path / "file")
    fresh = load_(build(f"timm/{name}"), tmp_path / "file").eval()
    assert list(mod_blocks(fresh)) == list(mod_blocks(model))
    x_NCHW = torch.rand(1, 3, 224, 224) if name.startswith("maxvit") else torch.rand(1, 3, 64, 64)
    assert torch.equal(fresh(x_NCHW), model(x_NCHW))


def test_non_contiguous_weights_round_trip(tmp_path):
    model = convert_(digits_resnet(), MoDConfig(c=8), **SMALL).eval()
    weight = model.layer1[0].conv1.weight
    weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)
    assert not weight.is_contiguous()
    save(model, tmp_path / "file")
    x_NCHW = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_(digits_resnet(), tmp_path / "file", **SMALL).eval()(x_NCHW), model(x_NCHW))
    dense = digits_resnet()
    dense.layer1[1].conv1.weight.data = dense.layer1[1].conv1.weight.data.transpose(0, 1)
    assert "layer1.1" in mod_blocks(convert_(dense, MoDConfig(c=8), **SMALL))


def test_nested_mod_blocks_raise(tmp_path):
    config = '{"c": 8}'
    text = f'{{"format": 1, "blocks": {{"layer1.1": {config}, "layer1.1.conv1": {config}}}}}'
    save_file(digits_resnet().state_dict(), tmp_path / "file", metadata={"cnnmod": text})
    message = r"the MoD block layer1\.1\.conv1 is inside another MoD block"
    check_untouched(digits_resnet(), lambda model: load_(model, tmp_path / "file", **SMALL), ValueError, message)


def test_config_without_c_raises(tmp_path):
    text = '{"format": 1, "blocks": {"layer1.1": {}}}'
    save_file(digits_resnet().state_dict(), tmp_path / "file", metadata={"cnnmod": text})
    check_untouched(
        digits_resnet(),
        lambda model: load_(model, tmp_path / "file", **SMALL),
        ValueError,
        "c must be a number",
    )


def test_loading_into_a_meta_model_raises(saved):
    with torch.device("meta"):
        model = digits_resnet()
    with pytest.raises(ValueError, match="is on the meta device"):
        load_(model, saved, **SMALL)
    assert not mod_blocks(model)


def test_lowered_models_are_not_saved(tmp_path):
    model = lower(convert_(digits_resnet(), MoDConfig(c=8), **SMALL), **SMALL)
    with pytest.raises(ValueError, match="save the model that was passed to lower"):
        save(model, tmp_path / "file")
    assert not [*tmp_path.iterdir()]


def test_extra_state_raises(tmp_path):
    model = digits_resnet()
    model.__class__ = type("Stateful", (type(model),), {"get_extra_state": lambda self: {"step": 1}})
    with pytest.raises(ValueError, match="_extra_state in the state dict is a dict; safetensors stores only tensors"):
        save(model, tmp_path / "file")


def test_permissions_and_links_are_kept(saved, tmp_path):
    saved.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(saved.name)
    model = convert_(digits_resnet(), MoDConfig(c=8), **SMALL)
    save(model, link)
    assert link.is_symlink()
    assert saved.stat().st_mode & 0o777 == 0o600
    assert torch.equal(load_(digits_resnet(), saved, **SMALL).fc.weight, model.fc.weight)


def test_sharded_quantized_sparse_and_offloaded_weights_raise(saved, tmp_path):
    """The error is raised before anything is written or loaded."""
    mesh = None

    def sharded(layer):
        nonlocal mesh
        mesh = mesh or init_device_mesh("cpu", (1,))
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh))

    def quantized(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors are deprecated in torch
            layer.weight = nn.Parameter(torch.quantize_per_tensor(layer.weight.detach(), 0.1, 0, torch.qint8), False)

    def sparse(layer):
        layer.weight = nn.Parameter(layer.weight.detach().to_sparse())

    def offloaded(layer):
        layer.to("meta")

    cases = (
        (sharded, "is a DTensor; safetensors stores only plain tensors"),
        (quantized, "is sparse or quantized"),
        (sparse, "is sparse or quantized"),
        (offloaded, "is on the meta device"),
    )
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        for spoil, message in cases:
            model = convert_(digits_resnet(), MoDConfig(c=8), **SMALL)
            spoil(model.fc)
            before = model.layer1[0].conv1.weight.clone()
            with pytest.raises(ValueError, match=rf"fc\.weight {message}"):
                save(model, tmp_path / "file")
            with pytest.raises(ValueError, match=rf"fc\.weight {message}"):
                load_(model, saved, **SMALL)
            assert torch.equal(model.layer1[0].conv1.weight, before)
            assert not (tmp_path / "file").exists()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("factory", ["resnet18", "", "timm/", "other/resnet18", "a:b:c", "timm/hf-hub:x", "a b:c"])
def test_invalid_factory_names_raise(factory, tmp_path):
    with pytest.raises(ValueError, match="factory must be timm/NAME"):
        save(digits_resnet(), tmp_path / "file", factory=factory)
    assert not [*tmp_path.iterdir()]


def test_factory_arguments_must_be_json(tmp_path):
    with pytest.raises(ValueError, match="factory_args must be JSON values"):
        save(digits_resnet(), tmp_path / "file", factory="timm/resnet18", factory_args={"act_layer": nn.ReLU})
    assert not [*tmp_path.iterdir()]
