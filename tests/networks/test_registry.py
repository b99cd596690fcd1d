"""Names of networks, and what is said when one does not exist."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from medmamba import networks
from medmamba.errors import DataError, UsageError
from medmamba.networks import _registry
from medmamba.plans.plan import Topology

FLAT = Topology(patch_size=(8, 8), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))


@pytest.fixture
def other_names() -> Iterator[None]:
    """Takes back what a test registers."""
    networks.names()
    before = dict(_registry._entries)
    yield
    _registry._entries.clear()
    _registry._entries.update(before)


def test_published_networks_are_there() -> None:
    assert {"unet", "umamba_bot", "umamba_enc"} <= set(networks.names("segmentation"))


@pytest.mark.parametrize("name", networks.names())
def test_every_network_is_described_in_a_line(name: str) -> None:
    entry = networks.describe(name)
    assert entry.summary.endswith(".")
    assert entry.source
    assert set(entry.dims) <= {2, 3}


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="umamba_bot"):
        networks.create("umamba_both", 1, 2, FLAT)


def test_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no option residuals; its options are: residual"):
        networks.create("unet", 1, 2, FLAT, residuals=True)


def test_word_is_no_truth_value() -> None:
    with pytest.raises(ValueError, match="option residual of network 'unet' must be of type bool, got 'no'"):
        networks.create("unet", 1, 2, FLAT, residual="no")


@pytest.mark.usefixtures("other_names")
def test_network_of_ones_own_is_created_by_name() -> None:
    @networks.register("mine", task="denoising", dims=(3,))
    def mine(in_channels: int, out_channels: int, topology: Topology, *, scale: float = 1.0) -> nn.Module:
        """A convolution."""
        return nn.Conv3d(in_channels, out_channels, round(scale))

    assert networks.names("denoising") == ("mine",)
    assert networks.describe("mine").summary == "A convolution."
    assert networks.describe("mine").options == {"scale": 1.0}
    solid = Topology(patch_size=(8, 8, 8), strides=((1, 1, 1),) * 2, kernel_sizes=((3, 3, 3),) * 2, features=(4, 6))
    made = networks.create("mine", 1, 2, solid, scale=3)
    assert isinstance(made, nn.Conv3d)
    assert made.kernel_size == (3, 3, 3)
    with pytest.raises(ValueError, match=r"'mine' is 3D only and cannot take patches of \(8, 8\)"):
        networks.create("mine", 1, 2, FLAT)


@pytest.mark.usefixtures("other_names")
def test_second_network_of_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="two networks want the name 'unet'"):
        networks.register("unet")(nn.Identity)


def test_networks_need_neither_readers_nor_frameworks() -> None:
    program = (
        "import sys, medmamba.networks as networks; networks.names();"
        "print(sorted(set(sys.modules) & {'monai', 'nibabel', 'nnunetv2', 'SimpleITK', 'skimage', 'scipy', 'typer',"
        "'rich', 'matplotlib', 'cc3d'}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("ratio", [0.0, 0.01])
def test_blocks_without_an_inner_width_are_refused(ratio: float) -> None:
    topology = Topology(patch_size=(8, 8), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 6))
    with pytest.raises(ValueError, match=rf"inner width of a block must be at least 1, but is {ratio} times 6"):
        networks.create("vmamba", 1, 2, topology, ssm_ratio=ratio)
    for system, config in (("mamba", {"d_model": 6, "expand": ratio}), ("vim_mamba", {"d_model": 6, "expand": ratio})):
        with pytest.raises(networks.UpstreamError, match=f"inner width .* is {ratio} times 6"):
            networks.from_upstream(system, {**config, "bimamba_type": "v2"} if system == "vim_mamba" else config, {})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vim", {"states": 0}, "states must be at least 1, got 0"),
        ("vmamba", {"states": 0}, "states must be at least 1, got 0"),
        ("vmamba", {"mixer": "none", "depth": 0}, "depth must be at least 1, got 0"),
        ("vivim", {"depths": (1, 1), "mamba_layers": -1}, "mamba_layers must be at least 0, got -1"),
        ("umamba_bot", {"blocks": [1]}, "blocks must be"),
        ("segmamba", {"mixer": "attention"}, "mixer must be one of"),
        ("vim", {"decoder": "fpn"}, "decoder must be"),
        ("unet", {"blocks": 1, "layers": 3}, "no option layers"),
        ("segmama", {}, "there is no network"),
    ],
)
def test_what_a_plan_may_say_wrongly_is_refused_at_once(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        networks.create(name, 1, 2, FLAT, **options)


def test_size_that_a_plan_does_not_allow_is_no_bug() -> None:
    with pytest.raises(DataError, match="must be divisible"):
        networks.create("unet", 1, 2, FLAT)(torch.zeros(1, 1, 7, 8))
