"""MambaByte: bytes in and out, bits per byte, sizes, and the originals' weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba import networks
from medmamba.networks import from_upstream
from medmamba.networks.language import mambabyte
from medmamba.networks.language.mambabyte import SIZES, MambaByte, decode, encode, word_perplexity
from medmamba.networks.language.sampling import Sampling

ALL = bytes(range(256))


def small_network() -> MambaByte:
    torch.manual_seed(0)
    network = MambaByte(16, 3)
    with torch.no_grad():  # the published start is too even to tell bytes apart
        network.embedding.weight *= 30
        for block in network.stack.blocks():
            block.out_proj.weight *= 30
    return network


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("raw", [b"", b"a", ALL, "Größe ≤ 3 µm 🧠".encode()])
def test_bytes_come_back(raw: bytes) -> None:
    assert decode(encode(raw)) == raw
    assert decode(encode(raw)[0]) == raw
    assert encode(ALL).tolist() == [list(range(256))]


def test_text_is_read_as_utf_8() -> None:
    assert encode("µ").tolist() == [[0xC2, 0xB5]]


def test_several_rows_and_other_numbers_are_not_decoded() -> None:
    with pytest.raises(ValueError, match="one row"):
        decode(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="256"):
        decode(torch.tensor([256]))


def test_written_bytes_are_those_of_full_recomputation() -> None:
    network = small_network()
    ids = encode("prompt")
    with torch.no_grad():
        for _ in range(12):
            ids = torch.cat([ids, network(ids)[:, -1:].argmax(-1)], dim=1)
    written = network.write("prompt", 12)
    assert written == decode(ids[:, 6:])
    assert len(set(written)) > 2, "a text of one byte proves little"
    assert network.write(b"prompt", 12) == written
    drawn = [
        network.write("prompt", 12, sampling=Sampling(), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_bits_per_byte_are_those_of_the_whole_text() -> None:
    network = small_network()
    with torch.no_grad():
        logits = network(encode(ALL))
        expected = F.cross_entropy(logits[0, :-1], encode(ALL)[0, 1:]).item() / math.log(2)
    assert network.bits_per_byte(ALL) == pytest.approx(expected, rel=1e-5)
    # Zero weights of the head: all bytes are as likely.
    assert network.head is not None
    nn.init.zeros_(network.head.weight)
    assert network.bits_per_byte("any text") == pytest.approx(8)
    with pytest.raises(ValueError, match="at least two bytes, got 1"):
        network.bits_per_byte("a")


def test_word_perplexity_of_published_counts() -> None:
    # Cross-entropy 0.5901387288 per byte on the test set of PG19, as the authors' code converts it.
    bits = 0.5901387288 / math.log(2)
    assert word_perplexity(bits, 41_289_101, 6_965_511) == pytest.approx(33.054, abs=1e-3)


@pytest.mark.parametrize(("name", "expected"), [("353M", 353_945_600), ("972M", 973_934_080)])
def test_model_has_published_size(name: str, expected: int) -> None:
    with torch.device("meta"):
        network = MambaByte(*SIZES[name])
    assert count(network) == expected
    assert network.embedding.num_embeddings == 256


def renamed(network: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    tensors = dict(network.state_dict())
    for ours, theirs in names.items():
        tensors = {theirs + k.removeprefix(ours) if k.startswith(ours) else k: t for k, t in tensors.items()}
    return tensors


@pytest.mark.parametrize(
    "names",
    [
        ("mambabyte.token_embedding.", "mambabyte.layers.", "mambabyte.final_norm."),
        ("backbone.embedding.", "backbone.layers.", "backbone.norm_f."),
    ],
)
def test_checkpoints_load_by_either_of_their_names(names: tuple[str, ...]) -> None:
    network = small_network()
    ours = ("embedding.", "stack.layers.", "norm.", "head.")
    tensors = renamed(network, dict(zip(ours, (*names, "lm_head."), strict=True)))
    config = {"d_model": 16, "n_layer": 3, "vocab_size": 256, "rms_norm": False}
    loaded = from_upstream("mambabyte_lm", config, tensors)
    assert isinstance(loaded, MambaByte)
    assert loaded.write("prompt", 8) == network.write("prompt", 8)


@pytest.mark.parametrize(
    ("system", "config", "words"),
    [
        ("mambabyte_lm", {"d_model": 8, "n_layer": 1, "rms_norm": True}, "rms_norm differ; load it as 'mamba_lm'"),
        ("mambabyte_lm", {"d_model": 8, "n_layer": 1, "patch": 8}, "patch is not known"),
        ("mambabyte", {"dim": 8, "depth": 1, "heads": 8}, "heads is not known"),
    ],
)
def test_other_models_are_refused(system: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        from_upstream(system, config, {})


def test_example_runs() -> None:
    assert len(mambabyte.MambaByte(8, 1).write("A text", 5)) == 5
