"""The language model of mamba_ssm: choosing tokens, and folders of published weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("installed")


def model_of(**options: Any) -> Any:
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    torch.manual_seed(0)
    config = {"d_model": 8, "n_layer": 2, "vocab_size": 13, "pad_vocab_size_multiple": 8, **options}
    return MambaLMHeadModel(MambaConfig(**config)).eval()


def prompt() -> Tensor:
    return torch.tensor([[1, 2, 3], [4, 5, 6]])


class Fixed(nn.Module):
    """A model that gives the same logits for any tokens."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        class Output:
            logits = self.logits[None].expand(len(input_ids), 1, -1)

        return Output()


def chosen(logits: list[float], **options: Any) -> set[int]:
    """Which tokens are drawn, in 400 draws."""
    from mamba_ssm.utils.generation import decode

    torch.manual_seed(0)
    tokens = decode(torch.zeros(400, 1, dtype=torch.long), Fixed(logits), 2, **options).sequences
    return set(tokens[:, 1].tolist())


def test_filters_leave_the_tokens_they_say() -> None:
    logits = [math.log(p) for p in (0.05, 0.5, 0.15, 0.3)]
    assert chosen(logits) == {1}
    assert chosen(logits, top_k=0) == {0, 1, 2, 3}
    assert chosen(logits, top_k=2) == {1, 3}
    assert chosen(logits, top_k=0, top_p=0.75) == {1, 3}
    assert chosen(logits, top_k=0, top_p=0.4) == {1}
    assert chosen(logits, top_k=3, top_p=0.9) == {1, 2, 3}
    assert chosen(logits, top_k=0, min_p=0.2) == {1, 2, 3}  # at least 0.1
    assert chosen(logits, top_k=0, temperature=0.01) == {1}
    assert chosen(logits, top_k=0, vocab_size=1) == {0}
    with pytest.raises(ValueError, match="top_p must be from 0 to 1"):
        chosen(logits, top_k=0, top_p=1.5)


def test_temperature_comes_before_the_share_of_probability() -> None:
    """Evened out, more tokens make up the same share."""
    logits = [math.log(p) for p in (0.7, 0.2, 0.1)]
    assert chosen(logits, top_k=0, top_p=0.6) == {0}
    assert chosen(logits, top_k=0, top_p=0.6, temperature=5.0) == {0, 1}


def test_penalty_divides_positive_logits_and_multiplies_negative_ones() -> None:
    from mamba_ssm.utils.generation import decode, modify_logit_for_repetition_penalty

    logits, seen = torch.tensor([[2.0, -2.0, 1.5, 0.0]]), torch.tensor([[0, 1, 0]])
    penalised = modify_logit_for_repetition_penalty(logits, seen, 4.0)
    assert torch.equal(penalised, torch.tensor([[0.5, -8.0, 1.5, 0.0]]))
    ids = torch.tensor([[3]])
    plain, varied = (decode(ids, Fixed([1.0, 1.5, 0.9, 2.0]), 4, repetition_penalty=p) for p in (1.0, 10.0))
    assert plain.sequences.tolist() == [[3, 3, 3, 3]]
    assert varied.sequences.tolist() == [[3, 1, 0, 2]]
    assert torch.equal(varied.scores[2], torch.tensor([[1.0, 1.5, 0.9, 2.0]]))  # those before the penalty


def test_generation_goes_on_greedily_as_whole_sequences_say() -> None:
    model = model_of()
    tokens = model.generate(prompt(), 9)
    assert torch.equal(tokens[:, :3], prompt())
    with torch.no_grad():
        for length in range(3, 9):
            assert torch.equal(tokens[:, length], model(tokens[:, :length]).logits[:, -1].argmax(-1))
    assert torch.equal(model.generate(prompt(), 9, cg=True), tokens)
    assert torch.equal(model.generate(prompt(), 3), prompt())


def test_teacher_says_the_tokens_as_far_as_it_reaches() -> None:
    model = model_of()
    teacher = torch.tensor([[1, 2, 3, 7, 8], [4, 5, 6, 9, 10]])
    output = model.generate(
        prompt(), 8, teacher_outputs=teacher, return_dict_in_generate=True, output_scores=True, vocab_size=13
    )
    assert torch.equal(output.sequences[:, :5], teacher)
    assert torch.equal(output.sequences[:, 5:], model.generate(teacher, 8, vocab_size=13)[:, 5:])
    assert len(output.scores) == 5
    with torch.no_grad():
        whole = model(output.sequences).logits[:, 2:-1, :13]
    torch.testing.assert_close(torch.stack(output.scores, dim=1), whole, rtol=1e-4, atol=1e-5)
    assert model.generate(prompt(), 4, return_dict_in_generate=True).scores is None


def test_repeated_step_gives_what_the_model_gives() -> None:
    from mamba_ssm.utils.generation import update_graph_cache

    model, ids = model_of(), torch.tensor([[1, 2, 3, 7, 8], [4, 5, 6, 9, 10]])
    cache = update_graph_cache(model, None, 2, 3, 9)
    with torch.no_grad():
        expected = model(ids).logits
        for _ in range(2):  # the second time with the states of the first
            state = cache.inference_params
            state.reset(9, 2)
            steps = [model(ids[:, :3], inference_params=state).logits[:, -1:]]
            steps += [cache.run(ids[:, i : i + 1], None, i) for i in (3, 4)]
            torch.testing.assert_close(torch.cat(steps, dim=1), expected[:, 2:], rtol=1e-4, atol=1e-5)
    assert update_graph_cache(model, cache, 2, 3, 9) is cache
    assert update_graph_cache(model, cache, 2, 3, 99) is not cache


class Stored(nn.Module):
    """A layer without parameters, as those of quantised models are."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("stored", base.weight.detach().half())
        self.register_buffer("shift", None if base.bias is None else base.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.stored.to(x.dtype), self.shift)


def test_model_of_layers_without_parameters_generates() -> None:
    model = model_of()
    for layer in model.backbone.layers:
        for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
            setattr(layer.mixer, name, Stored(getattr(layer.mixer, name)))
    tokens = model.generate(prompt(), 6)
    with torch.no_grad():
        for length in range(3, 6):
            assert torch.equal(tokens[:, length], model(tokens[:, :length]).logits[:, -1].argmax(-1))
        exact = model_of()(prompt()).logits
        assert 0 < float((model(prompt()).logits - exact).abs().max()) < 1e-2 * float(exact.abs().max())


def test_generation_ends_when_all_entries_have_ended() -> None:
    from mamba_ssm.utils.generation import decode

    ids = torch.zeros(2, 1, dtype=torch.long)
    assert decode(ids, Fixed([0.0, 1.0]), 9, eos_token_id=1).sequences.tolist() == [[0, 1], [0, 1]]
    assert decode(ids, Fixed([0.0, 1.0]), 4, eos_token_id=0).sequences.shape == (2, 4)


def test_streamer_hears_of_every_token_and_of_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Any] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            heard.append(value.clone())

        def end(self) -> None:
            heard.append("end")

    tokens = model_of().generate(prompt()[:1], 6, streamer=Streamer(), enable_timing=True)
    assert heard.pop() == "end"
    assert torch.equal(torch.cat([t.view(-1) for t in heard]), tokens[0])
    assert "decoding time" in capsys.readouterr().out


def test_unknown_option_of_generation_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="num_beams"):
        model_of().generate(prompt(), 5, num_beams=4)


def test_gated_mlp_stands_behind_the_mixer() -> None:
    from mamba_ssm.modules.mlp import GatedMLP

    model = model_of(d_intermediate=24)
    assert model.backbone.layers[0].mlp.fc1.weight.shape == (256, 8)  # rounded up to 128, twice
    torch.manual_seed(0)
    mlp, x = GatedMLP(4, 6, multiple_of=2), torch.randn(3, 4)
    value, gate = (x @ mlp.fc1.weight.T).chunk(2, dim=-1)
    expected = (value * nn.functional.silu(gate)) @ mlp.fc2.weight.T
    torch.testing.assert_close(mlp(x), expected)
    bound = 1 / math.sqrt(128) / math.sqrt(2 * 2)  # kaiming's, over the root of all residuals
    assert float(model.backbone.layers[0].mlp.fc2.weight.detach().abs().max()) <= bound


def test_mixer_model_takes_the_older_arguments() -> None:
    from mamba_ssm.models.mixer_seq_simple import MixerModel

    for model in (MixerModel(8, 1, 13), MixerModel(d_model=8, n_layer=1, vocab_size=13), MixerModel(8, 1, 0, 13)):
        assert model.embedding.weight.shape == (13, 8)
        assert model.layers[0].mlp is None


def write_folder(folder: Path, model: Any, weights: str) -> None:
    folder.mkdir()
    config = {k: v for k, v in vars(model.config).items() if k not in ("attn_cfg", "attn_layer_idx", "d_intermediate")}
    (folder / "config.json").write_text(json.dumps(config))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if weights == "pickle":
        torch.save(state, folder / "pytorch_model.bin")
    elif weights == "safetensors":  # which holds a shared weight once
        save_file({k: v for k, v in state.items() if k != "lm_head.weight"}, folder / "model.safetensors")
    else:
        names, index = sorted(state), {}
        for i, part in enumerate((names[:5], names[5:])):
            name = f"model-{i}.safetensors"
            save_file({k: state[k] for k in part}, folder / name)
            index |= dict.fromkeys(part, name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("weights", ["pickle", "safetensors", "parts"])
def test_folder_of_published_weights_is_read(weights: str, tmp_path: Path) -> None:
    model = model_of()
    write_folder(tmp_path / "model", model, weights)
    torch.manual_seed(1)
    read = type(model).from_pretrained(str(tmp_path / "model"), device="cpu")
    assert torch.equal(read(prompt()).logits, model(prompt()).logits)
    assert read.lm_head.weight is read.backbone.embedding.weight
    half = type(model).from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert half.lm_head.weight.dtype == torch.bfloat16
    assert half.backbone.layers[0].mixer.A_log.dtype == torch.float32
    assert torch.equal(half.lm_head.weight, model.lm_head.weight.bfloat16())


def test_folder_that_was_written_is_read(tmp_path: Path) -> None:
    model = model_of(tie_embeddings=False)
    model.save_pretrained(tmp_path / "new" / "model")
    assert sorted(p.name for p in (tmp_path / "new" / "model").iterdir()) == ["config.json", "pytorch_model.bin"]
    read = type(model).from_pretrained(tmp_path / "new" / "model")
    assert torch.equal(read(prompt()).logits, model(prompt()).logits)
    assert read.config == model.config


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.utils.hf import load_state_dict_hf

    with pytest.raises(FileNotFoundError, match="no folder state-spaces/mamba-130m"):
        MambaLMHeadModel.from_pretrained("state-spaces/mamba-130m")
    with pytest.raises(FileNotFoundError, match="must hold one of"):
        load_state_dict_hf(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "model_type": "mamba"}))
    with pytest.raises(ValueError, match="has hidden_size, model_type"):
        MambaLMHeadModel.from_pretrained(tmp_path)


def test_pickled_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    from mamba_ssm.utils.hf import load_state_dict_hf

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"weight": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match="weights_only"):
        load_state_dict_hf(tmp_path)
    assert not (tmp_path / "harm").exists()
