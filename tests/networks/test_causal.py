"""Clips mixed so that no frame sees a later one: the causal counterparts of orders, and their streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medmamba.kernels import BACKWARD, FORWARD, ScanOrder, cross
from medmamba.networks._causal import CausalGridMamba, causal_groups, kept
from medmamba.networks._mixers import orders_of
from medmamba.networks._segformer import CausalFeedForward, ConvFeedForward
from medmamba.networks._ssm import GridMamba
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.vivim import MambaLayer

VIVIM = orders_of("tri", 3)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def block_of(mamba: GridMamba, order: int) -> MambaBlock:
    """One of the orders as the published block for sequences."""
    block = MambaBlock(mamba.out_proj.out_features, d_state=mamba.states, d_conv=mamba.conv_weight.shape[-1]).double()
    assert mamba.conv_bias is not None
    block.load_state_dict(
        {
            "in_proj.weight": mamba.in_proj.weight,
            "conv1d.weight": mamba.conv_weight[order, :, None],
            "conv1d.bias": mamba.conv_bias[order],
            "x_proj.weight": mamba.x_proj[order],
            "dt_proj.weight": mamba.step_weight[order],
            "dt_proj.bias": mamba.step_bias[order],
            "A_log": mamba.A_log[order],
            "D": mamba.D[order],
            "out_proj.weight": mamba.out_proj.weight,
        }
    )
    return block


@pytest.mark.parametrize("grid", [(5, 3, 4), (1, 2, 2), (6, 1, 1), (4, 1, 2)])
def test_counterparts_of_vivims_orders_are_these_sequences(grid: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    mamba = CausalGridMamba(6, VIVIM, states=3, mean=True).double()
    frames, *space = grid
    x = noise(2, *grid, 6)
    forward, turned, through_time = (block_of(mamba, order) for order in range(3))
    with torch.no_grad():
        one = forward(x.flatten(1, 3)).view(x.shape)
        two = turned(x.flip(2, 3).flatten(1, 3)).view(x.shape).flip(2, 3)
        pixels = x.permute(0, 2, 3, 1, 4).reshape(-1, frames, 6)
        three = through_time(pixels).view(2, *space, frames, 6).permute(0, 3, 1, 2, 4)
        found = mamba(x.flatten(1, 3), grid).view(x.shape)
    torch.testing.assert_close(found, (one + two + three) / 3, rtol=1e-10, atol=1e-12)


def test_a_single_frame_has_the_scans_through_space_of_the_network_that_looks_ahead() -> None:
    torch.manual_seed(0)
    causal, ahead = CausalGridMamba(6, (FORWARD, BACKWARD)).double(), GridMamba(6, (FORWARD, BACKWARD)).double()
    ahead.load_state_dict(causal.state_dict())
    x = noise(1, 12, 6)
    with torch.no_grad():
        torch.testing.assert_close(causal(x, (1, 3, 4)), ahead(x, (1, 3, 4)), rtol=1e-10, atol=1e-12)


def test_orders_with_the_same_axes_outside_of_time_run_together() -> None:
    groups = causal_groups(cross(3))
    assert [(group.outside, group.which) for group in groups] == [((), [0, 3]), ((2,), [1, 4]), ((1, 2), [2, 5])]
    assert groups[0].orders == [ScanOrder(axes=(0, 1, 2)), ScanOrder(axes=(0, 1, 2), backward=(1, 2))]
    assert groups[2].orders == [ScanOrder(axes=(0,))] * 2
    columns = causal_groups([ScanOrder(axes=(0, 2, 1), reverse=True)])
    assert columns[0].orders == [ScanOrder(axes=(0, 2, 1), backward=(1, 2))]


def test_tokens_of_a_single_clip_are_folded_without_a_copy() -> None:
    for group in causal_groups(VIVIM):
        x = noise(1, 24, 5)
        folded = group.fold(x, (2, 3, 4))
        assert folded.data_ptr() == x.data_ptr()
        assert torch.equal(group.unfold(folded, (2, 3, 4)).flatten(1, 3), x)
    for group in causal_groups(cross(3)):
        x = noise(2, 24, 5)
        assert torch.equal(group.unfold(group.fold(x, (2, 3, 4)), (2, 3, 4)).flatten(1, 3), x)


@pytest.mark.parametrize("taps", [1, 2, 4, 6])
@pytest.mark.parametrize("space", [(3, 4), (1, 1), (1, 2)])
def test_frames_of_few_pixels_and_convolutions_of_any_length_go_on_in_a_stream(
    taps: int, space: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    mamba = CausalGridMamba(6, VIVIM, states=3, taps=taps).double()
    x = noise(2, 9, *space, 6)
    state: Any = ()
    parts = []
    with torch.no_grad():
        for piece in x.split((1, 1, 2, 4, 1), dim=1):
            y, state = mamba.advance(piece.flatten(1, 3), piece.shape[1:4], state)
            state = kept(state)
            parts.append(y.view(piece.shape))
        whole = mamba(x.flatten(1, 3), x.shape[1:4]).view(x.shape)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-10, atol=1e-12)


def test_causal_feed_forward_is_the_other_one_two_frames_later() -> None:
    torch.manual_seed(0)
    causal, ahead = CausalFeedForward(4).double(), ConvFeedForward(4, 3).double()
    ahead.load_state_dict(causal.state_dict())
    x = noise(2, 6, 3, 5, 4)
    with torch.no_grad():
        # What the convolution sees around a frame is what the causal one sees before the frame after it.
        torch.testing.assert_close(causal(x)[:, 1:], ahead(x)[:, :-1], rtol=1e-10, atol=1e-12)


def test_causal_layer_has_the_parameters_of_the_other_one() -> None:
    causal, ahead = MambaLayer(6, causal=True), MambaLayer(6)
    causal.load_state_dict(ahead.state_dict())
    assert [key for key, _ in causal.named_parameters()] == [key for key, _ in ahead.named_parameters()]


def test_gradient_of_a_causal_layer_is_right() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(2, states=1, taps=2, expand=1, expansion=1, causal=True).double()
    assert torch.autograd.gradcheck(layer, noise(2, 2, 1, 2, 2).requires_grad_())
