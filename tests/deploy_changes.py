"""Changes that users make to layers. Each function changes a layer in place."""

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


class Adapted(nn.Module):
    """A layer that replaces another layer and calls it, as in LoRA."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    @property
    def weight(self):
        return self.layer.weight

    def forward(self, x):
        return 2 * self.layer(x).flip(1)


def hook(layer):
    layer.register_forward_hook(lambda module, inputs, output: 2 * output.flip(1))


def pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0].flip(1),))


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        layer.weight_orig.copy_(layer.weight_orig.flip(0))


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Halved())
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(layer.parametrizations.weight.original.flip(0))


def weight_normed(layer):
    parametrizations.weight_norm(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original1.copy_(layer.parametrizations.weight.original1.flip(0))


def another_parameter(layer):
    layer.weight = nn.Parameter(2 * layer.weight.detach().flip(0), requires_grad=False)


def a_bias(layer):
    layer.bias = nn.Parameter(torch.linspace(-1, 1, len(layer.weight)), requires_grad=False)


def another_forward(layer):
    plain = type(layer).forward
    layer.forward = lambda x: 2 * plain(layer, x)


TO_A_LAYER = [hook, pre_hook, pruned, parametrized, weight_normed, another_parameter, a_bias, another_forward]


def _at_expand(change):
    def changed(selector):
        change(selector.expand)

    changed.__name__ = change.__name__
    return changed


def adapted(selector):
    selector.expand = Adapted(selector.expand)


def hook_on_the_selector(selector):
    hook(selector)


SELECTOR_CHANGES = [
    *(_at_expand(change) for change in (hook, pre_hook, pruned, parametrized, weight_normed, a_bias, another_forward)),
    adapted,
    hook_on_the_selector,
]
