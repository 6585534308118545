"""The checks run on a CPU. There, a function that runs the network stands for the replay of a graph."""

import pytest
import torch
from torch import nn

from cnnmod import MoDConfig, compare, convert_, lower
from cnnmod.deploy import start
from cnnmod.deploy.targets.cudagraph import Captured, CudaGraphTarget, _explained, check_device, gpu_fault
from cnnmod.deploy.targets.eager import EagerTarget
from cnnmod.deploy.targets.table import TARGETS
from conftest import trained_norms_
from small import tiny_network

EXAMPLE = torch.rand(2, 1, 8, 8)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")


def converted():
    return trained_norms_(convert_(tiny_network(), MoDConfig(c=4), example=EXAMPLE))


@torch.inference_mode()
def recorded(network, example=EXAMPLE):
    """Return the network as if it was captured: each replay writes to the memory of the first output."""
    images_NCHW = example.clone()
    output = network(images_NCHW)

    def replay():
        for old, new in zip(_tensors(output), _tensors(network(images_NCHW)), strict=True):
            old.copy_(new)

    return Captured(network, images_NCHW, output, replay)


def _tensors(output):
    return [output] if isinstance(output, torch.Tensor) else list(output.values())


def test_target_has_the_forms_of_eager():
    assert isinstance(TARGETS["cudagraph"], CudaGraphTarget)
    assert CudaGraphTarget.forms == EagerTarget.forms
    assert not TARGETS["cudagraph"].counts_memory(torch.device("cuda"))
    assert TARGETS["eager"].counts_memory(torch.device("cuda"))
    assert TARGETS["compile"].counts_memory(torch.device("cpu"))
    assert not TARGETS["compile"].counts_memory(torch.device("cuda"))


def test_outputs_are_copies():
    model = converted()
    run = recorded(lower(model, "cudagraph", example=EXAMPLE))
    images = torch.rand(2, 1, 8, 8)
    first, second = run(EXAMPLE), run(images)
    with torch.inference_mode():
        torch.testing.assert_close(first, model(EXAMPLE), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(second, model(images), atol=1e-5, rtol=1e-5)


def test_outputs_in_a_dictionary_are_copies():
    class Both(nn.Module):
        def forward(self, x_NCHW):
            return {"logits": x_NCHW + 1, "features": x_NCHW * 2}

    run = recorded(Both())
    first, _ = run(EXAMPLE), run(EXAMPLE + 1)
    assert torch.equal(first["logits"], EXAMPLE + 1)
    assert torch.equal(first["features"], EXAMPLE * 2)


def test_any_memory_format_is_accepted():
    run = recorded(lower(tiny_network(), "cudagraph", example=EXAMPLE))
    assert torch.equal(run(EXAMPLE.contiguous(memory_format=torch.channels_last)), run(EXAMPLE))


def test_weights_that_are_changed_in_place_are_used():
    run, other = recorded(lower(converted(), "cudagraph", example=EXAMPLE)), converted()
    run.module.load_state_dict(lower(other, "cudagraph", example=EXAMPLE).state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(run(EXAMPLE), other(EXAMPLE), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.double(), "stem.weight was moved or replaced after the network was captured"),
        (lambda model: model.to("meta"), "stem.weight was moved or replaced after the network was captured"),
        (lambda model: model.train(), "the mode (training or evaluation) of the network was changed after"),
    ],
)
def test_changed_network_raises(change, message):
    model = lower(converted(), "cudagraph", example=EXAMPLE)
    images_NCHW = EXAMPLE.clone()
    run = Captured(model, images_NCHW, torch.zeros(2, 10), lambda: None)
    change(model)
    with pytest.raises(ValueError, match="captured as a CUDA graph; lower and start it again") as raised:
        run(EXAMPLE)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (torch.rand(3, 1, 8, 8), "float32 images of shape (3, 1, 8, 8) on cpu"),
        (torch.rand(2, 1, 8, 9), "float32 images of shape (2, 1, 8, 9) on cpu"),
        (torch.rand(2, 1, 8, 8).double(), "float64 images of shape (2, 1, 8, 8) on cpu"),
        (torch.rand(2, 1, 8, 8, device="meta"), "float32 images of shape (2, 1, 8, 8) on meta"),
    ],
    ids=["batch", "size", "dtype", "device"],
)
def test_other_images_raise(images, given):
    run = recorded(lower(tiny_network(), "cudagraph", example=EXAMPLE))
    with pytest.raises(ValueError, match="this CUDA graph takes") as raised:
        run(images)
    assert str(raised.value) == (
        f"this CUDA graph takes float32 images of shape (2, 1, 8, 8) on cpu, not {given}; start the network again with "
        "an example of this kind"
    )


def test_unsuitable_devices_are_described():
    fault = gpu_fault(EXAMPLE, available=False, gpu=None, has_bfloat16=False)
    assert fault == "cudagraph needs a GPU, but torch finds none; use the runtime 'eager' or 'compile'"
    fault = gpu_fault(EXAMPLE, available=True, gpu=None, has_bfloat16=False)
    assert fault is not None
    assert fault.startswith("cudagraph runs on a GPU, but the example is on cpu")
    assert gpu_fault(EXAMPLE, available=True, gpu="Tesla T4", has_bfloat16=False) is None
    assert gpu_fault(EXAMPLE.bfloat16(), available=True, gpu="NVIDIA H100", has_bfloat16=True) is None
    fault = gpu_fault(EXAMPLE.bfloat16(), available=True, gpu="Tesla T4", has_bfloat16=False)
    assert fault == (
        "Tesla T4 does not compute in bfloat16, which needs compute capability 8.0; use float16 or float32"
    )


def test_network_on_another_device_raises():
    model = tiny_network()
    check_device(model, EXAMPLE)
    model.head.to("meta")
    with pytest.raises(
        ValueError, match=r"^head.weight is on meta, but the images are on cpu; move the network before"
    ):
        check_device(model, EXAMPLE)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
            ),
            "not enough GPU memory to capture float32 images of shape (2, 1, 8, 8) on cpu (CUDA out of memory); use a "
            "smaller batch",
        ),
        (
            RuntimeError(
                "CUDA error: operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA"
            ),
            "this network cannot be captured as a CUDA graph (CUDA error: operation not permitted when stream is "
            "capturing Compile with TORCH_USE_CUDA_DSA); use the runtime 'eager' or 'compile'",
        ),
    ],
)
def test_errors_of_torch_become_one_line(error, message):
    """Ending a failed capture raises a second error, which does not name the cause."""

    def fail():
        try:
            raise error
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(ValueError, match="captur") as raised, _explained(EXAMPLE):
        fail()
    assert str(raised.value) == message


@needs_no_gpu
def test_without_a_gpu_start_and_compare_raise():
    model = converted()
    with pytest.raises(ValueError, match=r"^cudagraph needs a GPU, but torch finds none"):
        start(model, "cudagraph", EXAMPLE)
    with pytest.raises(ValueError, match=r"^cudagraph needs a GPU, but torch finds none"):
        compare({"dense": tiny_network(), "mod": model}, EXAMPLE, runtimes=("eager", "cudagraph"), rounds=1)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_graph_equals_eager_on_a_gpu(dtype, channels_last):
    model, images = converted().to("cuda", dtype), EXAMPLE.to("cuda", dtype)
    run = start(model, "cudagraph", images, channels_last=channels_last)
    assert isinstance(run, Captured)
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    for images_NCHW in (images, torch.rand_like(images)):
        with torch.inference_mode():
            torch.testing.assert_close(run(images_NCHW), model(images_NCHW), atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        run.module.head.bias.add_(1)
        model.head.bias.add_(1)
    with torch.inference_mode():
        torch.testing.assert_close(run(images), model(images), atol=tolerance, rtol=tolerance)
    with pytest.raises(ValueError, match="this CUDA graph takes"):
        run(images[:1])
    run.module.cpu()
    with pytest.raises(ValueError, match="moved or replaced after the network was captured"):
        run(images)


@needs_gpu
def test_failed_capture_leaves_a_usable_gpu():
    class Reads(nn.Module):
        def forward(self, x_NCHW):
            return x_NCHW * x_NCHW.mean().item()

    images = EXAMPLE.cuda()
    with pytest.raises(ValueError, match="cannot be captured as a CUDA graph"):
        start(Reads(), "cudagraph", images)
    assert start(tiny_network().cuda(), "cudagraph", images)(images).shape == (2, 10)


@needs_gpu
def test_compare_measures_all_runtimes_of_a_gpu():
    models = {"dense": tiny_network().cuda(), "mod": converted().cuda()}
    comparison = compare(models, EXAMPLE.cuda(), runtimes=("cudagraph", "compile", "eager"), rounds=2)
    assert [runtime for runtime, _ in comparison.conditions] == ["cudagraph", "compile", "eager"]
