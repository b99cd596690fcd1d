"""Every Triton kernel compiles for the GPUs we name, without one at hand, and fits their registers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed; install it with 'pip install triton'", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels that are interpreted cannot be compiled", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from medmamba.kernels import _triton_conv, _triton_gradients, _triton_kernels, _triton_sums, triton_conv
from medmamba.kernels import _triton_launch as layout
from medmamba.kernels._triton_launch import BACKWARD, FORWARD, KEEP, tile_for

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = {
    "chunk_ends": (_triton_kernels.chunk_ends, FORWARD),
    "carry": (_triton_kernels.carry, FORWARD),
    "chunk_outputs": (_triton_kernels.chunk_outputs, FORWARD),
    "chunk_gradients_ends": (_triton_gradients.chunk_gradients_ends, BACKWARD),
    "chunk_gradients": (_triton_gradients.chunk_gradients, BACKWARD),
    "convolve": (_triton_conv.convolve, FORWARD),
    "convolve_back": (_triton_conv.convolve_back, FORWARD),
    "add_tokens": (_triton_sums.add_tokens, FORWARD),
    "add_rows": (_triton_sums.add_rows, FORWARD),
}
CONVOLUTIONS, SUMS = {"convolve", "convolve_back"}, {"add_tokens", "add_rows"}
#: Pointers to the type of the network's activations; the others are to float32.
ACTIVATIONS = {"u", "delta", "B", "C", "z", "x", "y", "grad", "grad_y", "grad_u", "grad_delta", "grad_z", "grad_x"}
FLOATS = {
    "A", "D", "delta_bias", "starts", "given", "partial", "partial_u", "partial_z", "last_state", "kept", "ends",
    "sums", "scratch", "grad_A", "grad_B", "grad_C", "grad_D", "grad_bias", "grad_state", "weight", "bias",
    "grad_weight", "shares",
}  # fmt: skip
#: Channels and states side by side, as linear layers leave them.
ADJACENT = {f"{name}_d": 1 for name in ACTIVATIONS - {"B", "C"}} | {"B_n": 1, "C_n": 1}
#: The last of several orders over a volume.
USUAL = {
    "CONSTANT_B": False, "CONSTANT_C": False, "SOFTPLUS": True, "FIRST": False, "LAST": True, "SHARED": True,
    "LOOPS": 3, "KEEP": KEEP, "REVERSE": False, "WIDTH": layout.CARRY_WIDTH, "AHEAD": layout.CARRY_AHEAD,
    "TAPS": 4, "ACTIVATION": True,
}  # fmt: skip
#: A lone order with nothing optional, in a layout of its own.
BARE = {
    "CONSTANT_B": True, "CONSTANT_C": True, "SOFTPLUS": False, "FIRST": True, "LAST": True, "SHARED": False, "LOOPS": 1,
    "ACTIVATION": False, "REVERSE": True,
    **dict.fromkeys(("D", "z", "delta_bias", "starts", "given", "partial", "partial_u", "partial_z")),
    **dict.fromkeys(("bias", "grad_z", "grad_state")),
}  # fmt: skip


def compiled(name: str, target: GPUTarget, kind: str, states: int = 16, **other: Any) -> Any:
    """A kernel as compiled for a target, pointers aligned as PyTorch's are."""
    kernel, tiles = KERNELS[name]
    constants = USUAL | asdict(tile_for(tiles, states, target.warp_size)) | {"N": states} | ADJACENT | other
    warps = 1
    if name in CONVOLUTIONS:
        constants |= {"STEPS": triton_conv.STEPS, "WIDTH": triton_conv.WIDTH} | other
        warps = triton_conv.WARPS
    if name in SUMS:
        width = triton.next_power_of_2(states) if name == "add_tokens" else layout.SUM_WIDTH
        constants |= {"WIDTH": width, "SHARE_STEPS": max(1, layout.SUM_ELEMENTS // width), "AHEAD": layout.SUM_AHEAD}
        constants |= {"ROWS": layout.SUM_ROWS} | other
        warps = layout.SUM_WARPS
    signature, values, attributes = {}, {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument], values[(i,)] = "constexpr", constants[argument]
        elif argument in ACTIVATIONS | FLOATS | {"walk"}:
            signature[argument] = "*i32" if argument == "walk" else f"*{kind if argument in ACTIVATIONS else 'fp32'}"
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[argument] = "fp32" if argument == "scale" else "i32"
    options = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Triton's own defaults
        return triton.compile(ASTSource(kernel, signature, values, attributes), target=target, options=options)


def resources(result: Any, target: GPUTarget, folder: Path) -> tuple[int, int]:
    """Registers that a thread takes, and bytes (AMD: registers) that did not fit and went to memory."""
    if target.backend == "hip":
        return tuple(
            int(re.search(rf"\.{n}:\s+(\d+)", result.asm["amdgcn"])[1]) for n in ("vgpr_count", "vgpr_spill_count")
        )
    file = folder / "kernel.cubin"
    file.write_bytes(result.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    listed = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{n}:(\d+)", listed)[1]) for n in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


#: What each vendor's newest target stands for, in the type of activations that networks train in.
TRIED_EACH_TIME = {("sm_90", "bf16"), ("gfx942", "bf16")}


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        pytest.param(target, kind, marks=() if (target, kind) in TRIED_EACH_TIME else pytest.mark.slow)
        for target in TARGETS
        for kind in ("fp32", "bf16")
    ],
)
def test_kernels_compile_and_spill_no_registers(target: str, kind: str, tmp_path: Path) -> None:
    for name in KERNELS:
        registers, spilled = resources(compiled(name, TARGETS[target], kind), TARGETS[target], tmp_path)
        print(f"{target} {kind} {name}: {registers} registers, {spilled} spilled")
        assert spilled == 0, f"{name}: {spilled} spilled"


@pytest.mark.parametrize("kind", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_states_of_a_tile_stay_in_their_lanes(kind: str) -> None:
    for name in ("chunk_ends", "chunk_outputs", "chunk_gradients_ends", "chunk_gradients"):
        for target in ("sm_90", "gfx942"):
            assert "convert_layout" not in compiled(name, TARGETS[target], kind).asm["ttgir"], (name, target)


def test_kernels_compile_without_what_is_optional() -> None:
    for name in KERNELS:
        strided = dict.fromkeys(ADJACENT, 7)
        compiled(name, TARGETS["sm_90"], "fp32", states=4, **BARE | strided)


@pytest.mark.slow
@pytest.mark.parametrize("states", [1, 2, 3, 8, 32, 64, 128, 256])
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_kernels_compile_for_any_number_of_states(target: str, states: int, tmp_path: Path) -> None:
    for name in KERNELS.keys() - CONVOLUTIONS:
        for loops, first in ((1, True), (2, False), (4, False)):
            result = compiled(name, TARGETS[target], "bf16", states=states, LOOPS=loops, FIRST=first, LAST=first)
            registers, spilled = resources(result, TARGETS[target], tmp_path)
            print(f"{target} {states} states {loops} loops {name}: {registers} registers, {spilled} spilled")
            assert spilled == 0 or states > 16, f"{name}: {spilled} spilled"
