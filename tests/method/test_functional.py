"""Test the functions with manual values, properties, gradients, compilation and errors."""

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnmod import fuse, gather_channels, select_channels

X_1411 = torch.tensor([10.0, 20.0, 30.0, 40.0]).view(1, 4, 1, 1)
LOGIT_14 = torch.tensor([[0.5, -1.0, 2.0, 0.5]])


class TestSelectChannels:
    def test_equals_manual_values(self):
        score_NK, index_NK = select_channels(LOGIT_14, 3)
        assert index_NK.tolist() == [[2, 0, 3]]
        torch.testing.assert_close(score_NK, torch.tensor([[2.0, 0.5, 0.5]]).sigmoid())

    def test_order_index_sorts_by_channel(self):
        score_NK, index_NK = select_channels(LOGIT_14, 3, order="index")
        assert index_NK.tolist() == [[0, 2, 3]]
        torch.testing.assert_close(score_NK, torch.tensor([[0.5, 2.0, 0.5]]).sigmoid())

    @given(
        npst.arrays(
            np.float32,
            st.tuples(st.integers(1, 4), st.integers(1, 40)),
            elements=st.one_of(st.sampled_from([-1.0, -0.0, 0.0, 1.0]), st.floats(-(2.0**90), 2.0**90, width=32)),
        ),
        st.data(),
    )
    @settings(max_examples=200, deadline=None)
    def test_equals_a_stable_sort(self, logits, data):
        """Between equal logits, including -0.0 and 0.0, the lower index is selected."""
        k = data.draw(st.integers(1, logits.shape[1]))
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        assert select_channels(torch.from_numpy(logits), k)[1].tolist() == expected.tolist()

    def test_saturated_scores_are_ranked_by_logit(self):
        logit_NC = torch.tensor([[200.0, 300.0, 100.0]])  # the sigmoids of all logits are 1.0
        assert select_channels(logit_NC, 2)[1].tolist() == [[1, 0]]

    def test_infinite_and_16_bit_logits_are_ranked(self):
        logit_NC = torch.tensor([[float("-inf"), 1.0, float("inf"), 1.0]])
        assert select_channels(logit_NC, 4)[1].tolist() == [[2, 1, 3, 0]]
        score_NK, index_NK = select_channels(LOGIT_14.bfloat16(), 3)
        assert score_NK.dtype == torch.bfloat16
        assert index_NK.tolist() == [[2, 0, 3]]

    def test_nan_is_ranked_highest_for_any_bits(self):
        """As in `torch.topk`. The sign of inf - inf is negative on x86 and positive on other processors."""
        nan_4 = torch.tensor([0x7FC00000, -0x400000, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
        assert nan_4.isnan().all()
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            logit_NC = torch.tensor([[1.0, torch.inf, 0.0, -torch.inf, 0.0, 0.0, 0.0, 0.0]], dtype=dtype)
            logit_NC[0, 4:] = nan_4.to(dtype)
            score_NK, index_NK = select_channels(logit_NC, 6)
            assert index_NK.tolist() == [[4, 5, 6, 7, 1, 0]]
            assert score_NK.isnan().tolist() == [[True] * 4 + [False] * 2]

    @pytest.mark.parametrize("order", ["score", "index"])
    def test_gradients_are_correct(self, order):
        logit_NC = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda logit_NC: select_channels(logit_NC, 2, order=order)[0], logit_NC)

    def test_only_selected_logits_get_a_gradient(self):
        logit_NC = torch.randn(3, 8, requires_grad=True)
        score_NK, index_NK = select_channels(logit_NC, 3)
        score_NK.sum().backward()
        selected = torch.zeros(3, 8).scatter(1, index_NK, 1.0).bool()
        assert torch.equal(logit_NC.grad != 0, selected)

    def test_compiled_equals_eager(self):
        compiled = torch.compile(select_channels, fullgraph=True, backend="aot_eager")
        logit_NC = torch.randn(4, 9)
        for ours, theirs in zip(compiled(logit_NC, 3), select_channels(logit_NC, 3), strict=True):
            torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("k", [0, 5, -1])
    def test_k_out_of_range_raises(self, k):
        with pytest.raises(ValueError, match=f"k must be from 1 to 4, the number of channels, not {k}"):
            select_channels(LOGIT_14, k)

    def test_unknown_order_raises(self):
        with pytest.raises(ValueError, match="order must be one of 'score', 'index', not 'rank'"):
            select_channels(LOGIT_14, 1, order="rank")


class TestGatherChannels:
    def test_equals_manual_values(self):
        assert gather_channels(X_1411, torch.tensor([[3, 0]])).flatten().tolist() == [40, 10]

    def test_is_per_image(self):
        x_NCHW, index_NK = torch.randn(3, 6, 2, 2), torch.tensor([[0, 1], [5, 2], [3, 3]])
        for image in range(3):
            expected = x_NCHW[image, index_NK[image]]
            assert torch.equal(gather_channels(x_NCHW, index_NK)[image], expected)

    def test_gradients_are_correct(self):
        x_NCHW = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
        index_NK = torch.tensor([[3, 0], [1, 2]])
        for value in (x_NCHW, x_NCHW.detach().contiguous(memory_format=torch.channels_last).requires_grad_()):
            assert torch.autograd.gradcheck(lambda x_NCHW: gather_channels(x_NCHW, index_NK), value)
            assert torch.autograd.gradgradcheck(lambda x_NCHW: gather_channels(x_NCHW, index_NK).square(), value)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_keeps_the_memory_format_of_values_and_gradients(self, memory_format):
        x_NCHW = torch.randn(2, 8, 4, 3).contiguous(memory_format=memory_format).requires_grad_()
        gathered = gather_channels(x_NCHW, torch.tensor([[5, 0, 3], [1, 7, 2]]))
        gathered.sum().backward()
        assert gathered.is_contiguous(memory_format=memory_format)
        assert x_NCHW.grad is not None
        assert x_NCHW.grad.is_contiguous(memory_format=memory_format)

    def test_values_of_a_view_and_of_one_pixel(self):
        index_NK = torch.tensor([[1, 3], [0, 0]])
        for x_NCHW in (torch.randn(2, 12, 3, 5)[:, 2:6], torch.randn(2, 4, 1, 1), torch.randn(2, 3, 5, 4).mT[..., ::2]):
            index_NK = index_NK % x_NCHW.shape[1]
            expected = torch.stack([x_NCHW[image, index_NK[image]] for image in range(2)])
            assert torch.equal(gather_channels(x_NCHW, index_NK), expected)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_vmap_equals_a_loop(self, memory_format):
        x_NCHW = torch.randn(6, 8, 4, 4).contiguous(memory_format=memory_format)
        x_BNCHW, index_BNK = x_NCHW.unflatten(0, (3, 2)), torch.randint(8, (3, 2, 2))
        expected = torch.stack([gather_channels(x, index) for x, index in zip(x_BNCHW, index_BNK, strict=True)])
        assert torch.equal(torch.vmap(gather_channels)(x_BNCHW, index_BNK), expected)

    def test_compiled_equals_eager(self):
        compiled = torch.compile(gather_channels, fullgraph=True, backend="aot_eager")
        index_NK = torch.tensor([[3, 0]])
        assert torch.equal(compiled(X_1411, index_NK), gather_channels(X_1411, index_NK))


class TestFuse:
    @pytest.mark.parametrize(
        ("to", "expected"),
        [("first", [11, 22, 30, 40]), ("last", [10, 20, 31, 42]), ("original", [12, 20, 30, 41])],
    )
    def test_equals_manual_values(self, to, expected):
        y_NKHW = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
        result = fuse(X_1411, y_NKHW, to=to, index_NK=torch.tensor([[3, 0]]))
        assert result.flatten().tolist() == expected
        assert X_1411.flatten().tolist() == [10, 20, 30, 40]

    @given(st.integers(1, 4), st.sampled_from(["first", "last", "original"]), st.booleans())
    @settings(max_examples=50, deadline=None)
    def test_other_channels_are_copied_exactly(self, k, to, channels_last):
        x_NCHW = torch.randn(2, 4, 3, 3)
        x_NCHW[:, :, 0, 0], x_NCHW[:, :, 1, 1] = -0.0, float("nan")
        if channels_last:
            x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        index_NK = torch.stack([torch.randperm(4)[:k] for _ in range(2)])
        result = fuse(x_NCHW, torch.ones(2, k, 3, 3), to=to, index_NK=index_NK)
        places = {"first": torch.arange(k).expand(2, k), "last": torch.arange(4 - k, 4).expand(2, k)}
        touched = torch.zeros(2, 4, dtype=torch.bool).scatter(1, places.get(to, index_NK), True)
        same_bits = (result.view(torch.int32) == x_NCHW.view(torch.int32)).flatten(2).all(2)
        assert same_bits[~touched].all()
        assert not same_bits[touched].any()

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("to", ["first", "last", "original"])
    def test_keeps_the_memory_format(self, to, memory_format):
        x_NCHW = torch.randn(2, 8, 4, 4).contiguous(memory_format=memory_format)
        index_NK = torch.tensor([[0, 1], [2, 3]])
        assert fuse(x_NCHW, torch.ones(2, 2, 4, 4), to=to, index_NK=index_NK).is_contiguous(memory_format=memory_format)

    def test_output_of_a_slice_is_dense(self):
        x_NCHW = torch.rand(2, 16, 4, 4).chunk(2, 1)[1]
        for to in ("first", "last", "original"):
            fused_NCHW = fuse(x_NCHW, torch.ones(2, 1, 4, 4), to=to, index_NK=torch.zeros(2, 1, dtype=torch.long))
            assert fused_NCHW.is_contiguous()
            assert fused_NCHW.untyped_storage().nbytes() == 4 * x_NCHW.numel()

    @pytest.mark.parametrize("in_dims", [(0, 0), (1, 2), (0, None), (None, 0)])
    def test_vmap_equals_a_loop(self, in_dims):
        x_BNCHW, y_BNKHW = torch.rand(3, 2, 8, 4, 4), torch.rand(3, 2, 2, 4, 4)
        maps = [
            value[0] if dim is None else value.movedim(0, dim)
            for value, dim in zip((x_BNCHW, y_BNKHW), in_dims, strict=True)
        ]
        expected = torch.stack(
            [fuse(x_BNCHW[0 if in_dims[0] is None else b], y_BNKHW[0 if in_dims[1] is None else b]) for b in range(3)]
        )
        assert torch.equal(torch.vmap(fuse, in_dims=in_dims)(*maps), expected)

    def test_keeps_the_memory_format_of_one_image(self):
        """The stride of a dimension of size 1 is arbitrary."""
        x_NCHW = torch.randn(4, 4, 8).permute(2, 0, 1).as_strided((1, 8, 4, 4), (8, 1, 32, 8))
        for to in ("first", "last", "original"):
            fused_NCHW = fuse(x_NCHW, torch.ones(1, 1, 4, 4), to=to, index_NK=torch.zeros(1, 1, dtype=torch.long))
            assert fused_NCHW.is_contiguous(memory_format=torch.channels_last)
            assert not fused_NCHW.is_contiguous()

    @pytest.mark.parametrize("to", ["first", "last", "original"])
    def test_gradients_are_correct(self, to):
        x_NCHW = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
        y_NKHW = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
        index_NK = torch.tensor([[3, 0], [1, 2]])

        def fused(x_NCHW, y_NKHW):
            return fuse(x_NCHW, y_NKHW, to=to, index_NK=index_NK)

        assert torch.autograd.gradcheck(fused, (x_NCHW, y_NKHW))
        assert torch.autograd.gradgradcheck(fused, (x_NCHW, y_NKHW))

    @pytest.mark.parametrize("to", ["first", "last"])
    def test_compiled_equals_eager_forward_and_backward(self, to):
        y_NKHW = torch.randn(2, 2, 3, 3)
        gradients = []
        for function in (fuse, torch.compile(fuse, fullgraph=True, backend="aot_eager")):
            x_NCHW = torch.arange(72.0).view(2, 4, 3, 3).requires_grad_()
            function(x_NCHW, y_NKHW, to=to).square().sum().backward()
            gradients.append(x_NCHW.grad)
        assert torch.equal(*gradients)

    def test_vmap_is_supported(self):
        x_BNCHW, y_BNKHW = torch.randn(3, 2, 4, 2, 2), torch.randn(3, 2, 1, 2, 2)
        expected = torch.stack([fuse(x, y) for x, y in zip(x_BNCHW, y_BNKHW, strict=True)])
        assert torch.equal(torch.vmap(fuse)(x_BNCHW, y_BNKHW), expected)

    def test_result_has_the_dtype_of_x(self):
        assert fuse(X_1411.half(), torch.ones(1, 1, 1, 1)).dtype == torch.float16

    def test_invalid_arguments_raise(self):
        with pytest.raises(ValueError, match="needs index_NK"):
            fuse(X_1411, X_1411, to="original")
        with pytest.raises(ValueError, match="to must be one of 'first', 'last', 'original', not 'end'"):
            fuse(X_1411, X_1411, to="end")
