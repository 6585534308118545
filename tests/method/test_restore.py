"""`restored` undoes all changes of a forward pass to the network and to the caches of its code."""

import collections
import dataclasses
import functools
import random
import types

import numpy as np
import pytest
import torch
from torch import nn

from cnnmod.method.restore import restored

GLOBAL_GRIDS: dict[int, torch.Tensor] = {}
GLOBAL_GRID = None
REGISTRY: set[str] = set()


DEVICE = ["cpu"]


@functools.lru_cache(maxsize=4)
def cached_grid(size):
    return torch.zeros(size, device=DEVICE[0])


@functools.cache
def registered(name):
    """Register a name, which must happen only once per process."""
    REGISTRY.add(name)
    return object()


def closed_grid():
    grids, latest = {}, None

    def grid(size, device):
        nonlocal latest
        latest = grids.setdefault(size, torch.zeros(size, device=device))
        return latest

    return grid


def make_grid(size, device):
    global GLOBAL_GRID
    GLOBAL_GRID = GLOBAL_GRIDS.setdefault(size, torch.zeros(size, device=device))
    return GLOBAL_GRID


@dataclasses.dataclass
class State:
    step: int = 0
    grids: list = dataclasses.field(default_factory=list)


class Slots:
    __slots__ = ("grid", "never")

    def __init__(self):
        self.grid = None


class Keeping(nn.Module):
    """A network that stores tensors in every kind of attribute, container and cache."""

    on_the_class = None
    grids_of_the_class: dict = {}  # noqa: RUF012  the mutable class attribute is tested

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.register_buffer("steps", torch.zeros(1))
        self.none, self.number = None, 1000
        self.nested = {"list": [[]], "tuple": ({},), "queue": collections.deque(maxlen=2), "set": set()}
        self.ordered = collections.OrderedDict(a=1, b=2)
        self.alias = self.nested["list"]
        self.state, self.slots, self.space = State(), Slots(), types.SimpleNamespace(grid=None)
        self.state.itself = self.state
        self.average, self.array = torch.ones(3), np.ones(3)
        self.generator, self.python, self.numpy = torch.Generator(), random.Random(0), np.random.default_rng(0)
        self.unregistered = [nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))]
        self.grid = closed_grid()
        self.partial = functools.partial(self.grid, 4)
        self.moved = torch.ones(3)

    def forward(self, x):
        self.none = self.new = x
        self.number += 1
        self.nested["list"][0].append(x)
        self.nested["tuple"][0]["x"] = x
        self.nested["queue"].extend([x, x, x])
        self.nested["set"].add(x)
        self.nested["more"] = [x]
        self.ordered.move_to_end("a")
        self.state.step += 1
        self.state.grids.append(x)
        self.slots.grid = self.slots.never = self.space.grid = x
        self.average.mul_(0.5)
        self.array += 1
        self.moved.data = torch.zeros(3)
        self.steps += 1
        self.conv.weight.data.mul_(2)
        self.extra = nn.Linear(2, 2)
        self.register_buffer("late", x)
        self.eval()
        self.unregistered[0].train()(torch.rand(2, 2, 3, 3))
        self.grid(3, x.device)
        self.partial(x.device)
        make_grid(3, x.device)
        DEVICE[0] = x.device
        cached_grid(3)
        registered("a")
        self.grids_of_the_class[3] = type(self).on_the_class = x
        draws = [torch.rand(1), random.random(), np.random.rand()]
        draws += [torch.rand(1, generator=self.generator), self.python.random(), self.numpy.random()]


def content(value, seen=()):
    """Return the content of a value in a form that can be compared."""
    if id(value) in seen or isinstance(value, (types.FunctionType, types.MethodType, type)):
        return type(value)
    seen = (*seen, id(value))
    if isinstance(value, torch.Tensor):
        return type(value), value.device, value.detach().clone().cpu().numpy().tolist()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return [(key, content(held, seen)) for key, held in value.items()]
    if isinstance(value, (list, tuple, collections.deque, set)):
        return type(value), [content(held, seen) for held in value]
    if isinstance(value, Slots):
        return [content(getattr(value, name, "nothing"), seen) for name in Slots.__slots__]
    return (type(value), content(vars(value), seen)) if hasattr(value, "__dict__") else value


def everything(model):
    cells = [content(cell.cell_contents) for cell in model.grid.__closure__]
    on_the_class = Keeping.on_the_class, content(Keeping.grids_of_the_class)
    random_states = torch.get_rng_state().tolist(), random.getstate(), content(np.random.get_state())
    return content(model), cells, on_the_class, random_states, content(GLOBAL_GRIDS), GLOBAL_GRID


def test_all_state_is_restored():
    model = Keeping().train()
    before, held = everything(model), dict(vars(model))
    with torch.no_grad(), restored(model, weights=True):
        model(torch.rand(1, 2, 3, 3))
        assert everything(model) != before
    assert everything(model) == before
    assert all(vars(model)[name] is value for name, value in held.items())
    assert model.alias is model.nested["list"]
    assert cached_grid.cache_info().currsize == 0
    assert list(REGISTRY) == ["a"]  # a cache without tensors is not restored
    assert registered.cache_info().currsize == 1


def test_all_state_is_restored_after_an_error():
    model = Keeping()
    before = everything(model)

    def interrupted():
        with torch.no_grad(), restored(model, weights=True):
            model(torch.rand(1, 2, 3, 3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert everything(model) == before


def test_existing_cache_entries_are_kept():
    kept = cached_grid(7)
    GLOBAL_GRIDS[7] = kept
    try:
        model = Keeping()
        with torch.no_grad(), restored(model, weights=True):
            assert cached_grid(7) is kept
        assert cached_grid(7) is kept
        with torch.no_grad(), restored(model, weights=True):
            make_grid(8, "meta")
        assert list(GLOBAL_GRIDS) == [7]
        assert GLOBAL_GRIDS[7] is kept
    finally:
        GLOBAL_GRIDS.clear()
        cached_grid.cache_clear()


def test_unchanged_tensors_are_not_written_to():
    """Writing would increase the tensor versions, so a later backward would fail."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    model.kept = torch.rand(3, requires_grad=True)
    output = (model(torch.rand(2, 2, 3, 3)) * model.kept.sum()).sum()
    versions = [tensor._version for tensor in (*model.parameters(), *model.buffers(), model.kept)]
    with torch.no_grad(), restored(model, weights=True):
        model.eval()(torch.rand(2, 2, 3, 3))
    assert versions == [tensor._version for tensor in (*model.parameters(), *model.buffers(), model.kept)]
    output.backward()
