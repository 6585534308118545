"""Hypothesis strategies for small random networks whose forward depends on size, batch size and memory format."""

from dataclasses import dataclass

import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import dropout, interpolate, pad

from cnnmod import MoDBlock, MoDConfig, lower, mod_blocks

CHANNELS = 8
FORMATS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True)
class Step:
    """An operation on earlier values. `first` and `second` count values from the last one."""

    kind: str
    first: int
    second: int
    number: int


@dataclass(frozen=True)
class Plan:
    """A random network and its inputs."""

    steps: tuple[Step, ...]
    returned: tuple[int, ...]
    seed: int
    example: tuple[int, int, int]  # images, size, memory format
    inputs: tuple[tuple[int, int, int], ...]


def _conv_norm():
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True))


def _mod_block(number):
    k = 1 + number % 3
    act = nn.ReLU(inplace=bool(number % 2)) if number % 5 else nn.GELU()
    config = MoDConfig(
        reduction=2,
        order=("score", "index")[number % 2],
        fuse_to=("first", "last", "original")[number % 3],
        identity_start=number % 7 == 0,
        candidates=2 if number % 4 == 0 else None,
    )
    inner = nn.Sequential(nn.Conv2d(k, k, 1), act, nn.Conv2d(k, k, 3, padding=1), nn.BatchNorm2d(k))
    block = MoDBlock(inner, CHANNELS, k, config)
    if block.gain_K is not None:
        nn.init.uniform_(block.gain_K, 0.5, 2)
    return block


class Crop(nn.Module):
    """Return the input or a view of it, depending on its size."""

    def forward(self, x):
        return x[:, :, : x.shape[2] // 2 * 2] if x.shape[2] > 4 else x


class Halves(nn.Module):
    """Return half of a larger tensor."""

    def forward(self, x):
        return torch.cat([x, x.flip(1)], 1).chunk(2, 1)[0]


def _sequence(number):
    between = (nn.Identity(), nn.Dropout(), Crop(), nn.ReLU(inplace=True), Halves(), nn.BatchNorm2d(CHANNELS))
    layers = [_conv_norm(), between[number % 6], _mod_block(number)]
    if number % 3 == 0:
        layers += [between[number // 6 % 6], _mod_block(number + 1)]
    if number % 5 == 0:
        layers = layers[1:]  # the sequence then starts with its own input
    return nn.Sequential(*layers)


LAYERS = {
    "conv": lambda number: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, stride=1 + number % 2),
    "norm": lambda number: nn.BatchNorm2d(CHANNELS),
    "conv_norm": lambda number: _conv_norm(),
    "mod": _mod_block,
    "sequence": _sequence,
    "walk": _sequence,
}


def _asks(x, number):
    """Return a property of a tensor that depends on the input."""
    return (
        len(x) == 1,
        len(x) > 2,
        x.shape[-1] > 6,
        x.shape[-1] % 2 == 0,
        x.is_contiguous(),
        x.is_contiguous(memory_format=torch.channels_last),
    )[number % 6]


def _view(x, number):
    return (
        lambda: x.view_as(x),
        lambda: x[:, :, : x.shape[2] // 2 * 2 or 1],
        lambda: x[..., ::2],
        lambda: x.flatten(2).unflatten(2, x.shape[2:]),
        lambda: x.reshape(len(x), -1).reshape(x.shape),
        lambda: x.mT,
        lambda: x[:1].expand_as(x),
        lambda: x.mean((2, 3), keepdim=True).expand_as(x),
        lambda: torch.cat([x, x], 1)[:, :CHANNELS],
        lambda: x.split(CHANNELS, 1)[0],
    )[number % 10]()


def _same(x, number):
    """Return the same values in the same tensor or in a new one."""
    return (
        lambda: pad(x, (0, -x.shape[-1] % 4, 0, 0)),
        lambda: pad(x, (0, 0, 0, 0)),
        lambda: x.contiguous(),
        lambda: x.contiguous(memory_format=torch.channels_last),
        lambda: x.to(torch.float32),
        lambda: dropout(x, 0.5, training=False),
        lambda: interpolate(x, size=(6, 6)) if x.shape[-1] > 6 else x,
        lambda: x.clone() if _asks(x, number // 10) else x,
        lambda: x if _asks(x, number // 10) else x + 0,
        lambda: x.detach(),
    )[number % 10]()


class Random(nn.Module):
    """(N, 8, H, W) → (N, F)."""

    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleDict(
            {str(place): LAYERS[step.kind](step.number) for place, step in enumerate(plan.steps) if step.kind in LAYERS}
        )

    def forward(self, x):
        values = [x * 1.0]
        for place, step in enumerate(self.plan.steps):
            x, other = values[-1 - step.first % len(values)], values[-1 - step.second % len(values)]
            if step.kind == "walk":
                for number, layer in enumerate(self.layers[str(place)]):
                    x = layer(x)
                    if _asks(x, step.second + number):
                        values.append(x)
            elif step.kind in LAYERS:
                x = self.layers[str(place)](x)
            elif step.kind == "view":
                x = _view(x, step.number)
            elif step.kind == "same":
                x = _same(x, step.number)
            elif step.kind == "add":
                x = (x + other if x.shape == other.shape else x + other.mean()) / 2
            elif step.kind == "branch":
                x = x if _asks(x, step.number) else other
            values.append(x)
        returned = [values[-1 - place % len(values)] for place in (0, *self.plan.returned)]
        return torch.cat([pooled for one in returned for pooled in (one.mean((2, 3)), one.amax((2, 3)))], 1)


_steps = st.builds(
    Step,
    st.sampled_from([*LAYERS, "mod", "sequence", "sequence", "walk", "view", "view", "same", "same", "add", "branch"]),
    st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]),
    st.integers(0, 5),
    st.integers(0, 59),
)
_inputs = st.tuples(st.integers(1, 3), st.integers(4, 9), st.integers(0, 1))
plans = st.builds(
    Plan,
    st.lists(_steps, min_size=2, max_size=8).map(tuple),
    st.lists(st.integers(0, 5), max_size=2).map(tuple),
    st.integers(0, 10**6),
    _inputs,
    st.lists(_inputs, min_size=2, max_size=4, unique=True).map(tuple),
)


def _images(images, size, memory_format):
    return torch.randn(images, CHANNELS, size, size).contiguous(memory_format=FORMATS[memory_format])


def disagreement(plan, runtime="eager"):
    """Return the input on which the lowered network differs by more than 1e-5 of the largest output, or `None`."""
    torch.manual_seed(plan.seed)
    model = Random(plan)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.eval().requires_grad_(False)
    lowered = None
    for given in (plan.example, *plan.inputs):
        x = _images(*given)
        before = x.clone()
        with torch.inference_mode():
            try:
                expected = model(x)
            except RuntimeError as error:  # torch does not support changing an expanded view in place
                if "refers to a single memory location" not in str(error):
                    raise
                reject()
            lowered = lowered or lower(model, runtime, example=x)
            x = before.clone()
            found = lowered(x)
        limit = 1e-5 * max(1.0, float(expected.abs().max()))
        agrees = found.shape == expected.shape and (found - expected).abs().max() <= limit and torch.equal(x, before)
        if not agrees and not _nearly_ties(model, x):
            return given
    return None


def _nearly_ties(model, x):
    """Whether two logits of a selection are so close that rounding decides the order."""
    gaps = []

    def note(block, inputs):
        logit_NC = block.selector(inputs[0][:, : block.num_candidates])
        highest = logit_NC.sort(1, descending=True).values[:, : block.k + 1]
        gaps.append(float((highest[:, :-1] - highest[:, 1:]).min()))

    hooks = [block.register_forward_pre_hook(note) for block in mod_blocks(model).values()]
    with torch.inference_mode():
        model(x)
    for hook in hooks:
        hook.remove()
    return min(gaps, default=1.0) < 1e-5
