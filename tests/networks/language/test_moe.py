"""Switch layers and MoE-Mamba: the originals' numbers, capacity and balance by hand, decoding, sizes, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medmamba import networks
from medmamba.networks import from_upstream
from medmamba.networks.experts import Routing, SwitchFeedForward, balancing_loss, router_z_loss
from medmamba.networks.language import MambaLM
from medmamba.networks.language._stack import Norm
from medmamba.networks.language.moe import SIZES, MoEMamba, active_parameters
from tests import golden
from tests.golden import assert_close

WEIGHT = 0.01  # of the balancing loss in the golden files


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("path", golden.parameters("moe_switch_ff_capacity"))
def test_golden_switch_layer_with_our_choice_differs_in_its_overflow_alone(path: Path) -> None:
    file = golden.load(path)
    layer = from_upstream("moe_switch_ff", file.facts["config"], file.group("param/"))
    x, theirs = file.tensors["input/x"], file.tensors["output/out"].flatten(0, 1)
    with torch.no_grad():
        output = layer(x)[0].flatten(0, 1)
    expert, mask = file.tensors["output/expert_index"], file.tensors["output/kept_mask"].sum(1) > 0
    full = expert == torch.tensor(file.facts["tokens_per_expert"]).argmax()
    ours = output.any(1)
    assert ours[full].tolist() == [True] * 6 + [False] * 2, "first come, first served"
    assert torch.equal(ours[~full], mask[~full])
    both = ours & mask
    error = file.facts["fp32_vs_fp64"]["output/out"]
    assert_close(output[both], theirs[both], error["max_abs"], error["ref_absmax"], "tokens that both serve")


def routed(probabilities: list[list[float]], capacity: float | None) -> Routing:
    """As a switch layer would route tokens that its router finds these probabilities for."""
    layer = SwitchFeedForward(2, 3, 2, capacity=capacity)
    with torch.no_grad():
        layer.router.copy_(torch.eye(2))
        return layer.route(torch.tensor(probabilities).log(), layer.capacity)


EXAMPLE = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]]


@pytest.mark.parametrize(
    ("capacity", "kept"),
    [
        (None, [True, True, True, True]),
        (2.0, [True, True, True, True]),  # room for four
        (1.99, [True, True, True, True]),  # for three, rounded down
        (1.0, [True, True, True, False]),  # for two: the third that wants the first expert comes too late
        (0.5, [True, False, True, False]),
        (0.1, [True, False, True, False]),  # at least one
    ],
)
def test_experts_serve_those_who_come_first(capacity: float | None, kept: list[bool]) -> None:
    routing = routed(EXAMPLE, capacity)
    assert routing.expert.tolist() == [0, 0, 1, 0]
    assert routing.kept.tolist() == kept


def test_balancing_loss_counts_tokens_without_room_and_is_one_when_even() -> None:
    for capacity in (None, 0.5):
        # Three quarters and a quarter of the tokens; mean probabilities 0.65 and 0.35.
        assert balancing_loss(routed(EXAMPLE, capacity)).item() == pytest.approx(2 * (0.75 * 0.65 + 0.25 * 0.35))
    assert balancing_loss(routed([[0.7, 0.3], [0.3, 0.7]], None)).item() == pytest.approx(1)
    assert balancing_loss(routed([[0.999, 0.001]] * 3, None)).item() == pytest.approx(2, abs=0.01)


def test_z_loss_is_the_mean_square_of_the_logarithm_of_the_sum_of_exponentials() -> None:
    layer = SwitchFeedForward(2, 3, 2, capacity=None, z_weight=0.5)
    with torch.no_grad():
        layer.router.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])  # sums of 2 and of 4
    expected = (math.log(2) ** 2 + math.log(4) ** 2) / 2
    routing = layer.route(x[0], None)
    assert router_z_loss(routing).item() == pytest.approx(expected)
    assert layer(x)[1].item() == pytest.approx(balancing_loss(routing).item() + 0.5 * expected)
    assert router_z_loss(layer.route(x[0, :0], None)) == 0
    with pytest.raises(ValueError, match="size of its logits"):
        router_z_loss(Routing(routing.probabilities, routing.expert, routing.kept))


def test_z_loss_of_a_tower_comes_with_its_balance() -> None:
    torch.manual_seed(0)
    plain, weighted = MoEMamba(9, 8, 2, 3, 4), MoEMamba(9, 8, 2, 3, 4, z_weight=2.0)
    weighted.load_state_dict(plain.state_dict())
    ids = torch.randint(9, (2, 5))
    found = [network.balanced(ids)[1] for network in (plain, weighted)]
    assert (found[1] > found[0]).all()
    with pytest.raises(ValueError, match="z_weight must be at least 0"):
        MoEMamba(9, 8, 2, 3, 4, z_weight=-1.0)


def test_rms_norm_with_a_bias() -> None:
    norm = Norm(2, "rms_bias", eps=0.5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 3.0]))
        cast(Tensor, norm.bias).copy_(torch.tensor([0.1, -0.2]))
    scale = (2.5 + 0.5) ** -0.5  # of (1, 2)
    torch.testing.assert_close(norm(torch.tensor([1.0, 2.0])), torch.tensor([2 * scale + 0.1, 6 * scale - 0.2]))


def switch_and_tokens(**options: Any) -> tuple[SwitchFeedForward, Tensor]:
    torch.manual_seed(0)
    layer = SwitchFeedForward(6, 16, 4, **options)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_()
    return layer, torch.randn(3, 7, 6)


def test_each_token_gets_its_own_experts_answer_times_its_probability() -> None:
    layer, x = switch_and_tokens(capacity=None)
    output, _ = layer(x)
    for token, answer in zip(x.flatten(0, 1), output.flatten(0, 1), strict=True):
        probabilities = (token @ layer.router).softmax(0)
        best = int(probabilities.argmax())
        expected = probabilities[best] * torch.relu(token @ layer.weight_in[best]) @ layer.weight_out[best]
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.serve_all(x), output)


def test_tokens_without_room_get_nothing_and_give_no_gradient_but_the_balances() -> None:
    layer, x = switch_and_tokens(capacity=0.5)
    kept = layer.route(x.flatten(0, 1), layer.capacity).kept.view(3, 7)
    assert 0 < kept.sum() < 21
    x.requires_grad_()
    output, balance = layer(x)
    assert not output[~kept].any()
    assert bool(output[kept].any(-1).all())
    output.sum().backward(retain_graph=True)
    assert x.grad is not None
    assert not x.grad[~kept].any()
    balance.backward()
    assert bool(x.grad[~kept].any(-1).all())
    assert bool((layer.serve_all(x)[~kept] != 0).any(-1).all())


def test_no_tokens_make_no_answers_and_no_imbalance() -> None:
    layer, x = switch_and_tokens(capacity=1.0)
    none = x[:0].requires_grad_()
    output, balance = layer(none)
    assert output.shape == (0, 7, 6)
    assert balance.item() == 0
    (output.sum() + balance).backward()
    assert none.grad is not None
    assert layer.router.grad is not None
    assert not layer.router.grad.any()


def test_gradients_are_the_differences_in_double_precision() -> None:
    layer, x = switch_and_tokens(capacity=1.0)
    layer = layer.double()
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_work_grows_with_tokens_and_not_with_experts() -> None:
    from torch.utils.flop_counter import FlopCounterMode  # late: for this test only

    flops = []
    for experts in (2, 40):
        layer = SwitchFeedForward(8, 24, experts, capacity=None)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer.serve_all(torch.randn(1, 64, 8))
        flops.append(counter.get_total_flops() - 2 * 64 * 8 * experts)  # without the router
    assert flops[0] == flops[1] == 2 * 2 * 64 * 8 * 24


def test_router_stays_in_float32_at_16_bits_and_under_autocast() -> None:
    layer, x = switch_and_tokens(capacity=None)
    exact = layer.route(x.flatten(0, 1), None).probabilities
    output, _ = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.route(x.flatten(0, 1), None).probabilities, exact)
        rough, _ = layer(x)
    torch.testing.assert_close(rough, output, rtol=0.05, atol=0.1)
    layer.bfloat16()
    assert layer.router.dtype == torch.float32
    assert layer.weight_in.dtype == torch.bfloat16
    assert layer(x.bfloat16())[0].dtype == torch.bfloat16


def network_and_ids(capacity: float | None = None, positions: int = 0) -> tuple[MoEMamba, Tensor]:
    torch.manual_seed(0)
    network = MoEMamba(11, 16, 2, 4, 24, capacity=capacity, positions=positions)
    with torch.no_grad():
        for block in network.stack.blocks():
            block.out_proj.weight *= 10
    return network, torch.randint(11, (2, 12))


@pytest.mark.parametrize("positions", [0, 30])
def test_text_read_in_pieces_gives_the_logits_of_the_whole(positions: int) -> None:
    network, ids = network_and_ids(positions=positions)
    state, parts = None, []
    with torch.no_grad():
        whole = network(ids)
        for piece in ids.split((5, 1, 1, 5), dim=1):
            logits, state = network.prefill(piece, state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
        text = ids
        for _ in range(8):
            text = torch.cat([text, network(text)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(network.generate(ids, 8), text)


def test_generation_does_not_depend_on_the_rest_of_the_batch_nor_on_capacity() -> None:
    network, ids = network_and_ids(capacity=0.5)
    free, _ = network_and_ids()
    both = network.generate(ids, 6)
    assert torch.equal(both[:1], network.generate(ids[:1], 6))
    assert torch.equal(both, free.generate(ids, 6))
    with torch.no_grad():
        assert not torch.equal(network(ids), free(ids)), "the limit is there in training and evaluation"


@pytest.mark.parametrize(
    ("name", "total", "active"), [("25M", 542_228_480, 26_329_088), ("100M", 2_439_069_696, 117_522_432)]
)
def test_model_has_published_size(name: str, total: int, active: int) -> None:
    width, pairs, experts, hidden = SIZES[name]
    with torch.device("meta"):
        network = MoEMamba(50257, width, pairs, experts, hidden)
    outside = 2 * 50257 * width  # the paper counts neither embedding nor head
    assert count(network) - outside == total
    assert active_parameters(network) - outside == active


@pytest.mark.parametrize(("width", "depth", "expected"), [(512, 16, 27_131_904), (768, 32, 120_717_312)])
def test_dense_baseline_has_published_size(width: int, depth: int, expected: int) -> None:
    with torch.device("meta"):
        network = MambaLM(50257, width, depth, norm="layer", tied=False, final_norm=False, multiple=1)
    assert count(network) - 2 * 50257 * width == expected == active_parameters(network) - 2 * 50257 * width


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = MoEMamba(500, 64, 1, 4, 96)
    switch = cast(SwitchFeedForward, network.stack.layers[1].mixer)
    assert network.head is not None
    for weight, fan_in in (
        (switch.router, 64),
        (switch.weight_in, 64),
        (switch.weight_out, 4 * 96),
        (network.head.weight, 64),
    ):
        torch.testing.assert_close(weight.std(), torch.tensor((0.1 / fan_in) ** 0.5), rtol=0.1, atol=0)
    # Nearly even between the bounds, which lie within one standard deviation.
    assert 0.19 < network.embedding.weight.max() <= 0.2
    assert 0.105 < network.embedding.weight.std() < 0.116
    [block] = network.stack.blocks()
    assert 0.95 * 128**-0.5 < block.out_proj.weight.abs().max() <= 128**-0.5, "blocks keep their own"


def test_gradient_reaches_every_parameter() -> None:
    network, ids = network_and_ids(capacity=1.0, positions=12)
    logits, balance = network.balanced(ids)
    assert balance.shape == (2,)
    (F.cross_entropy(logits.mT, ids) + WEIGHT * balance.mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("experts", "capacity"), [(0, 1.0), (2, 0.0)])
def test_impossible_layers_are_refused(experts: int, capacity: float) -> None:
    with pytest.raises(ValueError, match="at least one expert and a positive capacity"):
        SwitchFeedForward(4, 4, experts, capacity=capacity)


LAYER: dict[str, Any] = {"dmodel": 16, "n_experts": 4, "expert_size": 24, "capacity_factor": 1.0}


def test_first_names_of_the_originals_tensors_load_too() -> None:
    layer = SwitchFeedForward(16, 24, 4)
    theirs = {"lin1_weight": layer.weight_in, "lin2_weight": layer.weight_out, "router.gate": layer.router}
    loaded = from_upstream("moe_switch_ff", LAYER, {key: tensor.detach() for key, tensor in theirs.items()})
    x = torch.randn(1, 5, 16)
    assert torch.equal(loaded(x)[0], layer(x)[0])


TOWER = {"vocab": 8, "dmodel": 4, "n_blocks": 1, "n_experts": 2, "expert_size": 8, "max_length": 16}


@pytest.mark.parametrize(
    ("system", "config", "words"),
    [
        ("moe_switch_ff", LAYER | {"routing_top_k": 2}, "routing_top_k=1"),
        ("moe_switch_ff", LAYER | {"zloss_weight": 0.1, "load_balancing_loss_weight": 0}, "must not be 0 then"),
        ("moe_switch_ff", LAYER | {"doutput": 3}, "doutput is not known"),
        ("moe_mamba_lm", TOWER | {"norm": "GroupNorm"}, "got 'GroupNorm'"),
        ("moe_mamba_lm", TOWER | {"heads": 4}, "heads is not known"),
    ],
)
def test_other_layers_and_towers_are_refused(system: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(networks.UpstreamError, match=words):
        from_upstream(system, config, {})
