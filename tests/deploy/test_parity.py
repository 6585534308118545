import math

import pytest
import torch

from cnnmod import MoDBlock, MoDConfig, convert_, mod_blocks
from cnnmod.deploy.parity import check_agreement, check_parity, with_tied_scores
from cnnmod.deploy.selector import SELECTED
from cnnmod.method.record import recorded_selection
from conftest import trained_norms_
from small import digits_resnet

EXAMPLE = torch.rand(4, 1, 8, 8)


def eager(model):
    """Return a function with the interface of a runtime that runs the network itself."""

    def run(images_NCHW):
        with torch.no_grad(), recorded_selection(model) as selected:
            logits = model(images_NCHW)
        return {"logits": logits} | {f"{block}{SELECTED}": index for block, (index,) in selected.items()}

    return run


def network(**fields):
    config = MoDConfig(**({"c": 4, "reduction": 2} | fields))
    return trained_norms_(convert_(digits_resnet(), config, example=EXAMPLE))


def test_network_agrees_with_itself():
    model = network()
    parity = check_parity(model, eager(model), EXAMPLE, (1, 3))
    assert (parity.largest_error, parity.selection_agreement) == (0, 1)


def test_different_weights_and_selections_are_detected():
    model = network()
    head = network()
    head.load_state_dict(model.state_dict())
    head.fc.bias.data[0] += 1
    parity = check_parity(model, eager(head), EXAMPLE, (1, 3))
    assert parity.largest_error > 1e-3
    assert parity.selection_agreement == 1
    other = network()
    other.load_state_dict(model.state_dict())
    for block in mod_blocks(other).values():
        block.selector.expand.weight.data.neg_()
    assert check_parity(model, eager(other), EXAMPLE, (1, 3)).selection_agreement < 0.9


def test_agreement_counts_classes_and_channels():
    model = network()
    own = check_agreement(model, eager(model), EXAMPLE.split(3))
    assert (own.images, own.top1, own.selection, own.selection_in_order) == (4, 1, 1, 1)

    def turned(images_NCHW):
        """Return the same channels in another order, and negated logits."""
        found = eager(model)(images_NCHW)
        return {name: -value if name == "logits" else value.roll(1, 1) for name, value in found.items()}

    other = check_agreement(model, turned, EXAMPLE.split(3))
    assert (other.top1, other.selection) == (0, 1)
    assert other.selection_in_order < 0.1


@pytest.mark.parametrize("order", ["score", "index"])
def test_channel_order_is_compared_only_for_order_score(order):
    model = network(order=order)
    plain = eager(model)

    def backwards(images_NCHW):
        return {name: one.flip(1) if name.endswith(SELECTED) else one for name, one in plain(images_NCHW).items()}

    agreement = check_parity(model, backwards, EXAMPLE, (3,)).selection_agreement
    assert agreement == 1 if order == "index" else agreement < 0.1


def test_error_is_infinite_if_all_selections_differ():
    model = network()
    plain = eager(model)

    def others(images_NCHW):
        return {name: 1 - one if name.endswith(SELECTED) else one for name, one in plain(images_NCHW).items()}

    assert check_parity(model, others, EXAMPLE, (1, 3)).largest_error == math.inf


def test_images_with_different_selections_are_not_compared():
    model = network()
    plain = eager(model)

    def first_is_other(images_NCHW):
        found = plain(images_NCHW)
        found["logits"][0] += 1
        found[f"layer1.1{SELECTED}"][0, 0] = -1
        return found

    parity = check_parity(model, first_is_other, EXAMPLE, (2,))
    assert parity.largest_error == 0
    assert 0.9 < parity.selection_agreement < 1


@pytest.mark.parametrize("call", [0, 1, 2])
def test_nan_on_any_input_is_an_infinite_error(call):
    model = network()
    plain, calls = eager(model), iter(range(3))

    def corrupted(images_NCHW):
        found = plain(images_NCHW)
        found["logits"] += math.nan if next(calls) == call else 0
        return found

    parity = check_parity(model, corrupted, EXAMPLE, (1, 3))
    assert (parity.largest_error, parity.seed) == (math.inf, [0, 1, -1][call])


def test_all_zero_outputs_agree():
    """Without biases, all outputs on a black image are zero, so there is no largest output to divide by."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False), torch.nn.Flatten())
    assert check_parity(model, eager(model), EXAMPLE, (1,)).largest_error == 0


@pytest.mark.parametrize("order", ["score", "index"])
@pytest.mark.parametrize("c", [4, 5])
def test_tied_scores_reveal_a_different_tie_breaking(order, c, monkeypatch):
    model = network(order=order, c=c)
    ours = with_tied_scores(model)
    plain = eager(ours)
    weight = mod_blocks(ours)["layer1.1"].selector.expand.weight
    assert not torch.equal(weight, mod_blocks(model)["layer1.1"].selector.expand.weight)
    assert check_parity(ours, plain, EXAMPLE, (2,)).selection_agreement == 1

    def ties_to_the_higher_index(self, x_NCHW):
        logit_NC = self.selector(x_NCHW)
        index_NK = self.channels - 1 - logit_NC.flip(1).sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        return logit_NC.gather(1, index_NK).sigmoid(), index_NK

    def run(images_NCHW):
        with monkeypatch.context() as patch:
            patch.setattr(MoDBlock, "_select", ties_to_the_higher_index)
            return plain(images_NCHW)

    for count in (1, 2):
        assert check_parity(ours, run, EXAMPLE, (count,)).selection_agreement < 0.9


@pytest.mark.parametrize("c", [4, 5, 16])
def test_tied_scores_include_the_last_selected_and_the_first_unselected_channel(c):
    for block in mod_blocks(with_tied_scores(network(c=c))).values():
        sorted_NC = block.selector(torch.rand(8, block.channels, 4, 4)).sort(1, descending=True).values
        assert (sorted_NC[:, block.k - 1] == sorted_NC[:, block.k]).float().mean() > 0.5


class Several(torch.nn.Module):
    """A network without weights that returns a function of the images."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns

    def forward(self, images):
        return self.returns(images)


def test_outputs_are_compared_by_name():
    model = Several(lambda x: {"a": x, "b": x + 1})
    assert check_parity(model, (lambda x: {"b": x + 1, "a": x}), EXAMPLE, (2,)).largest_error == 0
    swapped = check_parity(model, (lambda x: {"a": x + 1, "b": x}), EXAMPLE, (2,))
    assert swapped.largest_error > 0.1
    one = check_parity(model, (lambda x: {"a": x, "b": x + 1.5}), EXAMPLE, (2,))
    assert (one.output, one.largest_error > 0.1) == ("b", True)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda x: {"a": x}, "the file has the outputs a, but the network has a, b"),
        (lambda x: {"a": x, "b": x, "c": x}, "the file has the outputs a, b, c, but the network has a, b"),
        (
            lambda x: {"a": x, "b": x[:1]},
            r"output 'b' is torch.float32 \(1, 1, 8, 8\), but the network's is .* \(2, 1, 8, 8\)",
        ),
        (lambda x: {"a": x, "b": x.half()}, r"output 'b' is torch\.float16 .*, but the network's is torch\.float32"),
    ],
)
def test_different_names_shapes_and_dtypes_raise(outputs, message):
    """A batch size that is fixed to one must not be broadcast."""
    with pytest.raises(ValueError, match=message):
        check_parity(Several(lambda x: {"a": x, "b": x}), (outputs), EXAMPLE, (2,))


def test_integer_and_boolean_error_is_the_share_of_differences():
    for change in (lambda x: (x * 1000).long(), lambda x: x > 0.5):
        model = Several(change)

        def first_differs(images_NCHW, change=change):
            found = change(images_NCHW)
            found[0, 0, 0, 0] = ~found[0, 0, 0, 0]
            return {"output": found}

        assert check_parity(model, first_differs, EXAMPLE, (2,)).largest_error == 1 / 128
        assert check_parity(model, lambda x, change=change: {"output": change(x)}, EXAMPLE, (2,)).largest_error == 0


def test_rounding_of_16_bits_is_tolerated():
    model = Several(lambda x: x.half())
    nearly = check_parity(model, lambda x: {"output": (x * (1 + 2e-4)).half()}, EXAMPLE, (2,))
    assert nearly.largest_error == 0
    assert check_parity(model, lambda x: {"output": (x * 1.01).half()}, EXAMPLE, (2,)).largest_error > 5e-3


def test_outputs_without_batch_dimension_need_equal_selections():
    class Sums(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, images):
            y = self.network(images)
            return {"logits": y, "sum": y.sum(0), "mean": y.mean()}

    model = Sums().eval()

    def run(selects_otherwise, error):
        def one(images_NCHW):
            with torch.no_grad(), recorded_selection(model) as selected:
                found = model(images_NCHW) | {f"{name}{SELECTED}": index for name, (index,) in selected.items()}
            found["sum"] = found["sum"] + error
            if selects_otherwise(images_NCHW):
                found[f"network.layer1.1{SELECTED}"][0, 0] = -1
                found["sum"] = found["sum"] + 1
            return found

        return one

    first = run(lambda images: bool(images.any()), 0)  # different selections on all inputs except the black images
    assert check_parity(model, first, EXAMPLE, (2,)).largest_error == 0
    assert check_parity(model, run(lambda images: False, 1), EXAMPLE, (2,)).output == "sum"
    never = check_parity(model, run(lambda images: True, 0), EXAMPLE, (2,))
    assert (never.largest_error, never.output) == (math.inf, "sum")


def test_equal_non_finite_values_agree():
    model = Several(lambda x: x.masked_fill(x < 0.4, -math.inf) / x)
    assert check_parity(model, lambda x: {"output": model(x)}, EXAMPLE, (2,)).largest_error == 0
    other = check_parity(model, lambda x: {"output": model(x).clamp_min(-1e9)}, EXAMPLE, (2,))
    assert other.largest_error == math.inf
    with pytest.raises(ValueError, match="the network itself returns NaN in 'output' on the input of seed 0"):
        check_parity(Several(lambda x: x * math.nan), lambda x: {"output": x}, EXAMPLE, (2,))


def test_images_are_random_for_an_example_of_zeros():
    seen = []
    check_parity(Several(lambda x: x), lambda x: seen.append(x) or {"output": x}, torch.zeros(1, 1, 8, 8), (1, 2))
    assert [float(x.std()) > 0.5 for x in seen] == [True, True, False]


def test_network_may_reject_black_images_but_not_random_images():
    def accepts(low, high):
        def forward(x):
            assert low < x.std() < high, "unexpected\nimages"
            return x * 2

        return Several(forward)

    def run(x):
        return {"output": x * 2}

    assert check_parity(accepts(0.1, 10), run, EXAMPLE, (2,)).largest_error == 0  # black images are not compared
    message = r"the network fails on random images .* of the example \(AssertionError: unexpected images"
    with pytest.raises(ValueError, match=message):
        check_parity(accepts(10, 20), run, EXAMPLE, (2,))
