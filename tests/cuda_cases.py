"""Random cases for the CUDA kernels. They run on a GPU, and on the CPU through `host_kernels.py`.

On a GPU: `PYTHONPATH=tests python tests/cuda_cases.py 1000`.
"""

import copy
import itertools
import random
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnnmod import MoDBlock, MoDConfig
from cnnmod.deploy.live import selector_weights
from cnnmod.deploy.program import read_program

CHANNELS = (1, 2, 3, 16, 63, 64, 65, 130, 256, 257, 512, 1000, 1024, 2048)
SIZES = ((1, 1), (1, 2), (3, 1), (2, 2), (5, 7), (7, 7), (9, 4), (14, 14), (17, 33), (28, 28))
FORMATS = (torch.contiguous_format, torch.channels_last)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Case:
    """A MoD block, images, and the arguments of `mod_block_` after the images."""

    name: str
    block: MoDBlock
    x_NCHW: torch.Tensor
    arguments: tuple[Any, ...]

    def expected(self) -> torch.Tensor:
        """Return what the training form computes in float32, rounded once."""
        with torch.inference_mode():
            return copy.deepcopy(self.block).float()(self.x_NCHW.float()).to(self.x_NCHW.dtype)


class Branch(nn.Module):
    """Layers with a residual connection."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the input and the layers' output."""
        return x + self.layers(x)


def random_case(seed: int, device: str = "cpu", dtype: torch.dtype | None = None) -> Case:
    """Return a random case. All values of the selection are integers, so that it does not depend on rounding."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    channels, size = rng.choice(CHANNELS), rng.choice(SIZES)
    k = rng.randint(1, min(channels, rng.choice((4, 70, 512)), 40_000 // (size[0] * size[1])))
    config = MoDConfig(
        order=rng.choice(("score", "index")),
        fuse_to=rng.choice(("first", "last", "original")),
        candidates=rng.choice((None, None, 2, 4)),
        identity_start=rng.random() < 0.5,
        reduction=rng.choice((1, 4, 16, 64)),
    )
    dtype = rng.choice(DTYPES) if dtype is None else dtype
    block = MoDBlock(_conv_block(rng, k), channels, k, config).eval().requires_grad_(False)
    _set_weights_(block, generator)
    block.to(dtype, memory_format=rng.choice(FORMATS))
    images = rng.choice((1, 1, 2, 3))
    x_NCHW = _images(images, channels, size, generator).to(dtype).contiguous(memory_format=rng.choice(FORMATS))
    name = f"seed {seed}: {k} of {block.num_candidates} of {channels} channels, {images} × {size}, {dtype}, {config}"
    block.to(device)
    if rng.random() < 0.05:
        x_NCHW[0, rng.randrange(channels)] = rng.choice((float("nan"), float("inf"), float("-inf")))
    return Case(name, block, x_NCHW.to(device), arguments_of(block))


def arguments_of(block: MoDBlock) -> tuple[Any, ...]:
    """Return the arguments of `mod_block_` after the images."""
    program, selector = read_program(block.conv_block, block.k), selector_weights(block)
    layers = [block.conv_block.get_submodule(name) for name in program.layers]
    biases = [layer.weight.new_empty(0) if layer.bias is None else layer.bias for layer in layers]
    start = {"first": 0, "last": block.channels - block.k, "original": -1}[block.config.fuse_to]
    weights, by_index = [layer.weight for layer in layers], block.config.order == "index"
    assert selector is not None
    return (*selector, block.gain_K, weights, biases, program.steps, program.registers, block.k, by_index, start)


def check(case: Case, result_NCHW: torch.Tensor) -> None:
    """Raise `AssertionError` if the result differs by more than two rounding errors, or has other strides."""
    expected_NCHW, eps = case.expected(), torch.finfo(case.x_NCHW.dtype).eps
    scale = max(1.0, expected_NCHW.float().nan_to_num(0, 0, 0).abs().max().item())
    torch.testing.assert_close(
        *(result_NCHW, expected_NCHW),
        rtol=2 * eps,
        atol=max(1e-5, eps / 64) * scale,
        equal_nan=True,
        msg=lambda text: f"{case.name}\n{text}",
    )
    assert result_NCHW.stride() == case.x_NCHW.stride(), case.name


def _conv_block(rng: random.Random, k: int) -> nn.Module:
    """Return a random Conv-Block of one to three convolutions with k channels at its start and end."""
    widths = [k, *(rng.choice((1, 2, max(1, k // 4), min(k, 8))) for _ in range(rng.randint(0, 2))), k]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        size, dilation = rng.choice((1, 1, 3, 3, 5)), rng.choice((1, 1, 2))
        groups = rng.choice([number for number in (1, 1, 2, inputs) if inputs % number == outputs % number == 0])
        padding, bias = dilation * (size - 1) // 2, rng.random() < 0.7
        layers.append(nn.Conv2d(inputs, outputs, size, padding=padding, dilation=dilation, groups=groups, bias=bias))
        layers.extend(rng.choice(([], [nn.ReLU()], [nn.ReLU(inplace=True)], [nn.ReLU6()])))
    return Branch(*layers) if rng.random() < 0.3 else nn.Sequential(*layers)


def _set_weights_(block: MoDBlock, generator: torch.Generator) -> None:
    """Give the selector integer weights. Many logits are equal, and few hidden units keep them exact."""
    reduce, expand = block.selector.reduce.weight, block.selector.expand.weight
    reduce.zero_()
    inputs, units = min(8, reduce.size(1)), min(2, expand.size(1))
    reduce[:, :inputs] = torch.randint(-1, 2, (reduce.size(0), inputs), generator=generator).float()
    expand.zero_()
    expand[:, :units] = torch.randint(-4, 5, (expand.size(0), units), generator=generator).float() / 4
    if block.gain_K is not None:
        block.gain_K.copy_(0.5 + torch.rand(block.k, generator=generator))


def _images(images: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Return images of integers whose channel means are integers."""
    pixels = size[0] * size[1]
    mean_NC1 = torch.randint(-2, 3, (images, channels, 1), generator=generator).float()
    noise = torch.randint(-3, 4, (images, channels, pixels // 2), generator=generator).float()
    middle = torch.zeros(images, channels, pixels % 2)
    return (mean_NC1 + torch.cat([noise, middle, -noise], 2)).view(images, channels, *size)


def run_cases(count: int = 1000, device: str = "cuda") -> int:
    """Check random cases on a GPU, and return their number."""
    import cnnmod.deploy.cuda.form  # noqa: F401  defines the operator

    for seed in range(count):
        case = random_case(seed, device)
        result = case.x_NCHW.clone(memory_format=torch.preserve_format)
        torch.ops.cnnmod.mod_block_(result, *case.arguments)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        check(case, result)
    return count


if __name__ == "__main__":
    print(run_cases(int(sys.argv[1])), "cases agree")
