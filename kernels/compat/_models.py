"""The language model of `mamba_ssm`, on the block of this package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._block import Block, Mamba
from ._norms import RMSNorm, layer_norm_fn


@dataclass
class MambaConfig:
    """Upstream's description of a model; attention and gated MLPs between blocks are not served."""

    d_model: int = 2560
    d_intermediate: int = 0
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict[str, Any] = field(default_factory=dict)
    attn_layer_idx: list[int] = field(default_factory=list)
    attn_cfg: dict[str, Any] = field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True


@dataclass
class InferenceParams:
    """What decoding remembers from call to call."""

    max_seqlen: int = 0
    max_batch_size: int = 0
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict[Any, Any] = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        """Begin anew, keeping the states."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0


class CausalLMOutput(NamedTuple):
    """What the model returns."""

    logits: Tensor


def create_block(
    d_model: int,
    d_intermediate: int = 0,
    ssm_cfg: Mapping[str, Any] | None = None,
    attn_layer_idx: list[int] | None = None,
    attn_cfg: Mapping[str, Any] | None = None,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = False,
    residual_in_fp32: bool = False,
    fused_add_norm: bool = False,
    layer_idx: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Block:
    """One layer of a model.

    Raises:
        NotImplementedError: for layers other than Mamba's first version without an MLP.
    """
    options = dict(ssm_cfg or {})
    layer = options.pop("layer", "Mamba1")
    if layer != "Mamba1" or d_intermediate or attn_layer_idx or attn_cfg:
        raise NotImplementedError(
            f"create_block: only layers of Mamba's first version are served, without attention or MLP, but got "
            f"{layer}, d_intermediate={d_intermediate}, attn_layer_idx={attn_layer_idx}"
        )
    where: dict[str, Any] = {"device": device, "dtype": dtype}
    norm: Any = RMSNorm if rms_norm else nn.LayerNorm
    block = Block(
        d_model, partial(Mamba, layer_idx=layer_idx, **options, **where), None,
        partial(norm, eps=norm_epsilon, **where), fused_add_norm, residual_in_fp32,
    )  # fmt: skip
    block.layer_idx = layer_idx  # type: ignore[assignment]  # as upstream
    return block


class MixerModel(nn.Module):
    """Embedding, layers, norm."""

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        d_intermediate: int,
        vocab_size: int,
        ssm_cfg: Mapping[str, Any] | None = None,
        attn_layer_idx: list[int] | None = None,
        attn_cfg: Mapping[str, Any] | None = None,
        norm_epsilon: float = 1e-5,
        rms_norm: bool = False,
        initializer_cfg: Mapping[str, Any] | None = None,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.embedding = nn.Embedding(vocab_size, d_model, **where)
        self.layers = nn.ModuleList(
            create_block(
                d_model, d_intermediate, ssm_cfg, attn_layer_idx, attn_cfg, norm_epsilon, rms_norm, residual_in_fp32,
                fused_add_norm, i, **where,
            )
            for i in range(n_layer)
        )  # fmt: skip
        norm: Any = RMSNorm if rms_norm else nn.LayerNorm
        self.norm_f = norm(d_model, eps=norm_epsilon, **where)
        self.apply(partial(_draw, n_layer=n_layer, **(initializer_cfg or {})))

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **options: Any
    ) -> dict[int, Any]:
        """The states of all layers."""
        return {
            i: layer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **options)  # type: ignore[operator]
            for i, layer in enumerate(self.layers)
        }

    def forward(self, input_ids: Tensor, inference_params: InferenceParams | None = None, **options: Any) -> Tensor:
        """(B, L) ids to (B, L, d)."""
        hidden, residual = self.embedding(input_ids), None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, inference_params=inference_params, **options)
        normed = layer_norm_fn(
            hidden, self.norm_f.weight, self.norm_f.bias, residual, eps=self.norm_f.eps,
            residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(self.norm_f, RMSNorm),
        )  # fmt: skip
        assert isinstance(normed, Tensor)
        return normed


def _draw(
    module: nn.Module,
    n_layer: int,
    initializer_range: float = 0.02,
    rescale_prenorm_residual: bool = True,
    n_residuals_per_layer: int = 1,
) -> None:
    """Upstream's initialisation, which leaves the biases of step sizes alone."""
    if isinstance(module, nn.Linear) and module.bias is not None and not getattr(module.bias, "_no_reinit", False):
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual and isinstance(module, Mamba):
        nn.init.kaiming_uniform_(module.out_proj.weight, a=math.sqrt(5))
        with torch.no_grad():
            module.out_proj.weight /= math.sqrt(n_residuals_per_layer * n_layer)


class MambaLMHeadModel(nn.Module):
    """A language model with `generate`."""

    def __init__(
        self,
        config: MambaConfig,
        initializer_cfg: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        multiple = config.pad_vocab_size_multiple
        vocabulary = -(-config.vocab_size // multiple) * multiple
        self.backbone = MixerModel(
            config.d_model, config.n_layer, config.d_intermediate, vocabulary, config.ssm_cfg, config.attn_layer_idx,
            config.attn_cfg, rms_norm=config.rms_norm, initializer_cfg=initializer_cfg,
            fused_add_norm=config.fused_add_norm, residual_in_fp32=config.residual_in_fp32, **where,
        )  # fmt: skip
        self.lm_head = nn.Linear(config.d_model, vocabulary, bias=False, **where)
        self.apply(partial(_draw, n_layer=config.n_layer, **(initializer_cfg or {})))
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the head share the embedding's weights, if the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **options: Any
    ) -> dict[int, Any]:
        """The states of all layers."""
        return self.backbone.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **options)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        inference_params: InferenceParams | None = None,
        num_last_tokens: int = 0,
        **options: Any,
    ) -> CausalLMOutput:
        """(B, L) ids to logits (B, L, V), or those of the last tokens; positions are taken and of no effect."""
        hidden = self.backbone(input_ids, inference_params=inference_params, **options)
        return CausalLMOutput(self.lm_head(hidden[:, -num_last_tokens:] if num_last_tokens > 0 else hidden))

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        max_length: int,
        top_k: int = 1,
        top_p: float = 0.0,
        temperature: float = 1.0,
        eos_token_id: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Go on from (B, L) ids up to max_length of them, with recurrent states; top_k 1 takes the likeliest.

        Raises:
            NotImplementedError: for options that this does not serve.
        """
        unknown = {k: v for k, v in options.items() if v not in (None, False, 1.0) and k != "cg"}
        if unknown:
            raise NotImplementedError(f"generate: {', '.join(unknown)} is not supported here; leave it out")
        state = InferenceParams(max_length, input_ids.shape[0])
        logits = self(input_ids, inference_params=state, num_last_tokens=1).logits[:, -1]
        while input_ids.shape[1] < max_length:
            state.seqlen_offset = input_ids.shape[1]
            chosen = _choose(logits, top_k, top_p, temperature)
            input_ids = torch.cat([input_ids, chosen[:, None]], dim=1)
            if eos_token_id is not None and bool((chosen == eos_token_id).all()):
                break
            if input_ids.shape[1] < max_length:
                logits = self(chosen[:, None], inference_params=state).logits[:, -1]
        return input_ids


def _choose(logits: Tensor, top_k: int, top_p: float, temperature: float) -> Tensor:
    """(B, V) to the next ids (B,): the k likeliest, then temperature, then the likeliest that make up top_p."""
    if top_k == 1:
        return logits.argmax(-1)
    values, ids = logits.sort(dim=-1, descending=True)
    if top_k > 0:
        values, ids = values[:, :top_k], ids[:, :top_k]
    probabilities = (values / temperature).softmax(-1)
    if 0 < top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    return ids.gather(1, torch.multinomial(probabilities, 1))[:, 0]
