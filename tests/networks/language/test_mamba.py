"""Language model: the original's numbers, decoding, generation, sizes, and what it refuses."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba import networks
from medmamba.networks import from_upstream, language
from medmamba.networks.language import SIZES, MambaLM, bits_per_byte
from medmamba.networks.language.sampling import GREEDY, Sampling
from medmamba.networks.mamba import MambaBlock
from tests import golden
from tests.golden import assert_close

VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm": "layer", "tied": False, "final_norm": False, "positions": 20, "block": partial(MambaBlock, d_state=3)},
]


def network_and_ids(length: int = 12, **options: Any) -> tuple[MambaLM, Tensor]:
    torch.manual_seed(0)
    network = MambaLM(13, 16, 3, **options)
    with torch.no_grad():  # at the published start, a tied network says again what it has just read
        network.embedding.weight *= 30
        for block in network.stack.blocks():
            block.out_proj.weight *= 100
    return network, torch.randint(13, (2, length))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("path", golden.parameters("mamba_lm"))
def test_golden_steps_and_greedy_text_are_reproduced(path: Path) -> None:
    file = golden.load(path)
    network = cast(MambaLM, from_upstream("mamba_lm", file.facts["config"], file.group("param/")))
    ids, greedy = file.tensors["input/input_ids"], file.tensors["output/greedy"]
    error = file.facts["fp32_vs_fp64"]["output"]
    with torch.no_grad():
        logits, state = network.prefill(ids)
        steps = [logits[:, -1]]
        for token in greedy[:, ids.shape[1] : -1].split(1, dim=1):
            logits, state = network.prefill(token, state)
            steps.append(logits[:, 0])
        expected = file.tensors["output/decode_logits"]
        assert_close(torch.stack(steps), expected, error["max_abs"], error["ref_absmax"], "logits of steps")
        assert torch.equal(network.generate(ids, greedy.shape[1] - ids.shape[1]), greedy)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("cuts", [(12,), (5, 7), (1, 1, 10), (1,) * 12])
def test_text_read_in_pieces_gives_the_logits_of_the_whole(options: dict[str, Any], cuts: tuple[int, ...]) -> None:
    network, ids = network_and_ids(**options)
    state, parts = None, []
    with torch.no_grad():
        whole = network(ids)
        for piece in ids.split(cuts, dim=1):
            logits, state = network.prefill(piece, state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
    assert state is not None
    assert state.seen == 12


def test_state_can_be_gone_back_to() -> None:
    network, ids = network_and_ids()
    with torch.no_grad():
        _, state = network.prefill(ids[:, :6])
        first, _ = network.prefill(ids[:, 6:], state)
        network.prefill(ids[:, :3], state)
        again, _ = network.prefill(ids[:, 6:], state)
    assert torch.equal(first, again)


@pytest.mark.parametrize("options", VARIANTS)
def test_greedy_text_is_that_of_full_recomputation(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network, ids = network_and_ids(**options)
    monkeypatch.setattr(language, "PIECE", 5)  # the prompt takes several
    text = ids
    with torch.no_grad():
        for _ in range(8):
            text = torch.cat([text, network(text)[:, -1:, :13].argmax(-1)], dim=1)
    assert torch.equal(network.generate(ids, 8), text)
    assert len(set(text[0, 12:].tolist())) > 2, "a text of one token proves little"


def test_generation_never_draws_tokens_that_only_fill_up() -> None:
    network, ids = network_and_ids(tied=False)
    assert network.head is not None
    with torch.no_grad():
        network.head.weight[13:] = 100 * network.head.weight[:3]
        assert network(ids)[:, -1].argmax() >= 13
    for sampling in (GREEDY, Sampling(temperature=5.0)):
        assert network.generate(ids, 30, sampling=sampling).max() < 13


def test_generation_stops_row_by_row() -> None:
    network, ids = network_and_ids()
    free = network.generate(ids, 8)
    stop = int(free[0, 13])
    text = network.generate(ids, 8, stop=stop)
    for row, unstopped in zip(text.tolist(), free.tolist(), strict=True):
        end = unstopped.index(stop, 12) + 1 if stop in unstopped[12:] else len(unstopped)
        assert row == (unstopped[:end] + [stop] * 8)[: len(row)]
    assert text.shape[1] == 20 or bool((text[:, -1] == stop).all())
    alone = network.generate(ids[:1], 8, stop=stop)
    assert alone.shape[1] < 20
    assert alone[0, -1] == stop


def test_generation_repeats_with_the_generators_seed() -> None:
    network, ids = network_and_ids()
    sampling = Sampling(top_k=8, top_p=0.95, temperature=2.0)
    texts = [
        network.generate(ids, 20, sampling=sampling, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert torch.equal(network.generate(ids, 0), ids)


def test_surprise_is_the_summed_cross_entropy_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    network, ids = network_and_ids()
    with torch.no_grad():
        each = F.cross_entropy(network(ids)[:, :-1].mT, ids[:, 1:], reduction="none")
    for piece in (1, 5, 11, 100):
        monkeypatch.setattr(language, "PIECE", piece)
        torch.testing.assert_close(network.nats(ids), each.double().sum(1), rtol=1e-5, atol=1e-5)
    assert (network.nats(ids[:, :1]) == 0).all()
    assert bits_per_byte(math.log(256) * 7, 7) == pytest.approx(8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("130m", 129_135_360),
        ("370m", 371_516_416),
        ("790m", 793_204_224),
        ("1.4b", 1_372_178_432),
        ("2.8b", 2_768_345_600),
    ],
)
def test_model_has_published_size(name: str, expected: int) -> None:
    with torch.device("meta"):
        network = MambaLM(50277, *SIZES[name])
    assert network.embedding.num_embeddings == 50280
    assert count(network) == expected


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = MambaLM(2000, 64, 4, block=partial(MambaBlock, bias=True))
    torch.testing.assert_close(network.embedding.weight.std(), torch.tensor(0.02), rtol=0.02, atol=0)
    for block in network.stack.blocks():
        # Uniform within 1 / sqrt(fan-in), over the square root of the number of layers.
        bound = 128**-0.5 / 2
        assert 0.95 * bound < block.out_proj.weight.abs().max() <= bound
        assert not block.in_proj.bias.any()
        assert not block.out_proj.bias.any()
        step = F.softplus(block.dt_proj.bias)
        assert 0.9e-3 < step.min() < step.max() < 1.1e-1


def test_16_bit_model_adds_its_stream_in_float32_unless_told_otherwise() -> None:
    exact, ids = network_and_ids()
    with torch.no_grad():
        logits = exact(ids)
        for float32, kind in ((True, torch.float32), (False, torch.bfloat16)):
            network, _ = network_and_ids(float32_residual=float32)
            network = network.bfloat16()
            stream, _ = network.stack(network.embedding(ids))
            assert stream.dtype == kind
            rough = network(ids)
            assert rough.dtype == torch.bfloat16
            assert (rough - logits).abs().max() < 0.05 * logits.abs().max()


def test_gradient_reaches_every_parameter_under_autocast() -> None:
    network, ids = network_and_ids(**VARIANTS[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(ids)
    F.cross_entropy(logits.mT.float(), ids).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("shape", [(3,), (2, 0), (2, 3, 4)])
def test_numbers_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    network, _ = network_and_ids()
    for call in (network, network.nats, network.prefill, partial(network.generate, count=3)):
        with pytest.raises(ValueError, match=r"token numbers must be \(batch, tokens\)"):
            call(torch.zeros(shape, dtype=torch.long))


def test_text_longer_than_the_positions_is_refused() -> None:
    network, ids = network_and_ids(positions=12)
    network(ids)
    _, state = network.prefill(ids)
    with pytest.raises(ValueError, match=r"at most 12 tokens long.*got 13"):
        network.prefill(ids[:, :1], state)


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="rms, layer, rms_bias, got 'batch'"):
        MambaLM(8, 4, 1, norm="batch")  # type: ignore[arg-type]  # the point of the test


def upstream_weights(network: MambaLM) -> dict[str, Tensor]:
    names = {"embedding.": "backbone.embedding.", "stack.layers.": "backbone.layers.", "norm.": "backbone.norm_f."}
    tensors = dict(network.state_dict())
    for ours, theirs in names.items():
        tensors = {theirs + k.removeprefix(ours) if k.startswith(ours) else k: t for k, t in tensors.items()}
    return {"lm_head." + k.removeprefix("head.") if k.startswith("head.") else k: t for k, t in tensors.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_checkpoints_without_a_second_copy_of_the_embedding_load(tied: bool) -> None:
    network, ids = network_and_ids(norm="layer", tied=tied)
    config: dict[str, Any] = {"d_model": 16, "n_layer": 3, "vocab_size": 13, "rms_norm": False, "tie_embeddings": tied}
    config["ssm_cfg"] = {"layer": "Mamba1", "d_state": 16, "use_fast_path": False, "dt_min": 0.01}
    loaded = from_upstream("mamba_lm", config, upstream_weights(network))
    with torch.no_grad():
        assert torch.equal(loaded(ids), network(ids))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "only layers of 'Mamba1'"),
        ({"attn_layer_idx": [1]}, r"attn_layer_idx=\[\] is known here, got \[1\]"),
        ({"d_intermediate": 32}, "d_intermediate=0 is known here, got 32"),
        ({"hidden_size": 32}, "d_model 16 but 32"),
        ({"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"]}, "another network"),
        ({"ssm_cfg": {"ngroups": 2}}, "ngroups is not known"),
        ({"ssm_cfg": {"d_state": "16"}}, "d_state of ssm_cfg must be a whole number of at least 1, got '16'"),
        ({"lm_head": 1}, "lm_head is not known"),
    ],
)
def test_other_language_models_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        from_upstream("mamba_lm", {"d_model": 16, "n_layer": 3, "vocab_size": 13} | config, {})


def test_head_that_differs_from_a_tied_embedding_is_refused() -> None:
    network, _ = network_and_ids()
    tensors = upstream_weights(network) | {"lm_head.weight": torch.zeros(16, 16)}
    with pytest.raises(networks.UpstreamError, match="tie_embeddings=False"):
        from_upstream("mamba_lm", {"d_model": 16, "n_layer": 3, "vocab_size": 13}, tensors)


def test_checkpointing_gives_the_same_gradients_and_keeps_less() -> None:
    gradients, kept = [], []
    for checkpointing in (False, True):
        network, ids = network_and_ids(checkpointing=checkpointing)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = network(ids)
        kept.append(sum(sizes.values()))
        logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert kept[1] < 0.5 * kept[0]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
