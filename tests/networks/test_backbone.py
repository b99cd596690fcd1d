"""What backbones share: pyramids, stochastic depth, recomputed activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medmamba.networks._backbone import (
    DropPath,
    Pyramid,
    accumulate,
    channels_first,
    channels_last,
    check_dims,
    drop_rates,
    run,
)


def test_pyramid_runs_from_fine_to_coarse() -> None:
    assert Pyramid((4, 8), ((2, 2), (2, 4))).channels == (4, 8)
    with pytest.raises(ValueError, match="fine to coarse"):
        Pyramid((4, 8), ((2, 4), (4, 2)))
    with pytest.raises(ValueError, match="channels and strides of each level"):
        Pyramid((4,), ((2, 4), (4, 4)))


def test_strides_between_levels_multiply() -> None:
    assert accumulate([(1, 1, 1), (1, 2, 2), (2, 2, 1)]) == ((1, 1, 1), (1, 2, 2), (2, 4, 2))


def test_stochastic_depth_leaves_out_whole_entries_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    y = drop(torch.ones(4000, 2, 3))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(y[:, :1, :1].expand_as(y), y)
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(5)), torch.ones(5))
    assert drop.train()(torch.ones(5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_rates_of_stochastic_depth_rise_linearly() -> None:
    assert drop_rates(0.2, 5) == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert drop_rates(0.2, 1) == [0]


def test_layouts_are_views_and_each_others_inverse() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    assert channels_last(x).shape == (2, 4, 5, 6, 3)
    assert channels_first(channels_last(x)).data_ptr() == x.data_ptr()
    assert torch.equal(channels_first(channels_last(x)), x)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.weight * self.weight


@pytest.mark.parametrize(("checkpointing", "calls"), [(False, 1), (True, 2)])
def test_checkpointed_block_is_computed_again_in_the_backward_pass(checkpointing: bool, calls: int) -> None:
    block = Counter()
    torch.autograd.backward(run(block, torch.ones(3), checkpointing=checkpointing).sum())
    assert block.calls == calls
    assert block.weight.grad is not None
    assert block.weight.grad.item() == 6
    with torch.no_grad():
        run(block, torch.ones(3), checkpointing=checkpointing)
    assert block.calls == calls + 1


def test_images_of_another_kind_are_refused() -> None:
    check_dims(torch.zeros(1, 2, 3, 4), 2, 2)
    with pytest.raises(ValueError, match=r"2 channels, D, H, W\), but is \(1, 2, 3, 4\)"):
        check_dims(torch.zeros(1, 2, 3, 4), 2, 3)
    with pytest.raises(ValueError, match=r"1 channels, H, W\), but is \(1, 2, 3, 4\)"):
        check_dims(torch.zeros(1, 2, 3, 4), 1, 2)
