"""Graphs of forward passes that do not depend on the input. `test_flow.py` tests the norms that are found in them."""

import pytest
import torch
from torch import nn

from cnnmod.deploy.straight import StraightTracer


class Calls(nn.Module):
    """A convolution followed by a function."""

    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.given = forward

    def forward(self, x):
        return self.given(self.conv(x))


def caught(x):
    try:
        return x if len(x) == 1 else 2 * x
    except Exception:  # the test is about a user's network with a broad except
        return x


BRANCHES = {
    "value": lambda x: x if x.sum() > 0 else -x,
    "size": lambda x: x if x.shape[-1] > 8 else -x,
    "length": lambda x: x if len(x) == 1 else -x,
    "class": lambda x: x if isinstance(x, torch.Tensor) else -x,
    "attribute": lambda x: x if hasattr(x, "no_such_attribute") else -x,
    "number": lambda x: x * int(x.shape[-1]),
    "loop": lambda x: sum(image for image in x),
    "membership": lambda x: x if 1 in x.shape else -x,
    "caught": caught,
}


def operators(graph):
    return [node.op for node in graph.nodes]


def test_forward_pass_without_branches_is_one_graph():
    graph = StraightTracer().trace_straight(nn.Sequential(Calls(torch.relu), Calls(lambda x: x * 2)))
    assert operators(graph) == ["placeholder", *["call_module", "call_function"] * 2, "output"]


@pytest.mark.parametrize("branch", BRANCHES)
def test_branch_is_refused(branch):
    assert StraightTracer().trace_straight(Calls(BRANCHES[branch])) is None


def test_module_with_branches_inside_is_one_node():
    model = nn.Sequential(Calls(BRANCHES["size"]), nn.ReLU())
    tracer = StraightTracer()
    assert operators(tracer.trace_straight(model)) == ["placeholder", "call_module", "call_module", "output"]
    assert tracer.opaque == ["0"]
    assert StraightTracer(whole=True).trace_straight(model) is None


def test_module_with_a_hook_inside_is_one_node():
    model = nn.Sequential(Calls(torch.relu))
    model[0].register_forward_hook(lambda module, inputs, output: pytest.fail("the hook was called"))
    tracer = StraightTracer()
    assert operators(tracer.trace_straight(model)) == ["placeholder", "call_module", "output"]
    assert tracer.opaque == ["0"]


def test_layers_of_the_given_classes_are_not_traced():
    model = nn.Sequential(Calls(torch.relu))
    assert operators(StraightTracer((Calls,)).trace_straight(model)) == ["placeholder", "call_module", "output"]


def test_replaced_forward_is_refused():
    model = Calls(torch.relu)
    model.forward = lambda x: x
    assert StraightTracer().trace_straight(model) is None


def test_constant_arguments_are_inserted():
    class Optional(nn.Module):
        def forward(self, x, twice=False):
            return x * 2 if twice else x

    assert "call_function" in operators(StraightTracer().trace_straight(Optional(), {"twice": True}))


def test_values_held_after_the_pass_are_kept():
    held = []
    tracer = StraightTracer()
    graph = tracer.trace_straight(Calls(lambda x: held.append(x) or x.relu()))
    assert graph is not None
    kept = {node.op: tracer.is_kept(node) for node in graph.nodes}
    assert kept["call_module"]
    assert not kept["call_method"]
