import pytest
import torch
from torch import nn

from cnnmod import MoDConfig
from cnnmod.method.blocks import MoDBlock
from cnnmod.method.replay import Selections, recorded_for_replay, replayed_selections

C, K, N = 8, 2, 6


def network(**config):
    torch.manual_seed(0)
    block = MoDBlock(nn.Conv2d(K, K, 1), C, K, MoDConfig(reduction=1, **config))
    return nn.Sequential(block).eval()


@pytest.mark.parametrize("config", [{}, {"order": "index"}, {"select": "first"}], ids=str)
def test_replayed_selections_give_the_recorded_outputs(config):
    model, x_NCHW = network(**config), torch.rand(N, C, 3, 3)
    with torch.inference_mode():
        with recorded_for_replay(model) as selections:
            expected = torch.cat([model(x_NCHW[:4]), model(x_NCHW[4:])])
        with replayed_selections(model, selections):
            replayed = torch.cat([model(x_NCHW[:1]), model(x_NCHW[1:])])
        assert torch.equal(model(x_NCHW), expected)  # the context has ended
    assert torch.equal(replayed, expected)
    assert "select" not in vars(model[0])


def test_exchanged_selections_are_selections_of_other_images():
    model = network()
    with torch.inference_mode(), recorded_for_replay(model) as selections:
        model(torch.rand(N, C, 3, 3))
    exchanged = selections["0"].exchanged()
    for image in range(N):
        other = (image - N // 2) % N
        assert torch.equal(exchanged.index[0][image], selections["0"].index[0][other])
        assert torch.equal(exchanged.score[0][image], selections["0"].score[0][other])


def fixed_selections(index, score=None, order="score"):
    scores = [] if score is None else [torch.tensor(score)]
    return Selections(C, order, [torch.tensor(index)], scores).fixed()


def test_fixed_selection_has_the_most_frequent_channels_sorted_by_mean_position():
    fixed = fixed_selections([[5, 3], [5, 3], [3, 7]], [[0.9, 0.5], [0.7, 0.4], [0.6, 0.1]])
    assert fixed.index[0].tolist() == [[5, 3]] * 3  # 3 is selected more often, but its mean position is later
    torch.testing.assert_close(fixed.score[0], torch.tensor([[0.8, 0.5]] * 3))


def test_fixed_selection_is_sorted_with_order_index():
    assert fixed_selections([[3, 5], [3, 5], [2, 3]], order="index").index[0].tolist() == [[3, 5]] * 3
