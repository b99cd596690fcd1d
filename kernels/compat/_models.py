"""The language model of `mamba_ssm`, on the block of this package."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ._block import Mamba
from ._checkpoints import CONFIG, WEIGHTS, load_config_hf, load_state_dict_hf
from ._generation import GenerationMixin, InferenceParams
from ._norms import RMSNorm
from ._residual import Block, GatedMLP, add_and_norm


@dataclass
class MambaConfig:
    """Upstream's description of a model; attention between blocks is not served."""

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
        NotImplementedError: for layers other than Mamba's first version.
    """
    options = dict(ssm_cfg or {})
    layer = options.pop("layer", "Mamba1")
    if layer != "Mamba1" or attn_layer_idx:
        raise NotImplementedError(
            f"create_block: only layers of Mamba's first version are served, without attention, but got {layer}, "
            f"attn_layer_idx={attn_layer_idx}"
        )
    where: dict[str, Any] = {"device": device, "dtype": dtype}
    norm: Any = RMSNorm if rms_norm else nn.LayerNorm
    mlp = partial(GatedMLP, hidden_features=d_intermediate, out_features=d_model, **where) if d_intermediate else None
    block = Block(
        d_model, partial(Mamba, layer_idx=layer_idx, **options, **where), mlp,
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
        d_intermediate: int = 0,
        vocab_size: int | None = None,
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
        if vocab_size is None:  # the older form: no MLP, and the vocabulary in its place
            vocab_size, d_intermediate = d_intermediate, 0
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
        self.apply(_initialise(n_layer, d_intermediate, initializer_cfg))

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
        return add_and_norm(self.norm_f, hidden, residual, self.residual_in_fp32)[0]


def _init_weights(
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
    if not rescale_prenorm_residual:
        return
    for name, parameter in module.named_parameters():
        if name in ("out_proj.weight", "fc2.weight"):
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
            with torch.no_grad():
                parameter.div_(math.sqrt(n_residuals_per_layer * n_layer))


def _initialise(layers: int, d_intermediate: int, settings: Mapping[str, Any] | None) -> Callable[[nn.Module], None]:
    residuals = 2 if d_intermediate else 1
    return partial(_init_weights, **{"n_layer": layers, "n_residuals_per_layer": residuals, **(settings or {})})


class MambaLMHeadModel(nn.Module, GenerationMixin):
    """A language model with `generate`, that folders of weights can be read into and written from."""

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
        self.apply(_initialise(config.n_layer, config.d_intermediate, initializer_cfg))
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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Self:
        """The model of a folder on this machine, with config.json and weights beside it.

        Args:
            pretrained_model_name: the folder; nothing is fetched from the net.
            device: of the parameters.
            dtype: of the parameters, but for those of the recurrence, which stay float32.
            **options: for the constructor.

        Raises:
            FileNotFoundError: if the folder, its configuration or its weights are not there.
            ValueError: if the configuration is that of another kind of model.
        """
        content = load_config_hf(pretrained_model_name)
        unknown = sorted(content.keys() - {known.name for known in fields(MambaConfig)})
        if unknown:
            raise ValueError(
                f"from_pretrained: {pretrained_model_name}/{CONFIG} must be one of mamba_ssm, but has "
                f"{', '.join(unknown)}; 'medmamba model import --from mamba' reads what transformers wrote"
            )
        model = cls(MambaConfig(**content), device=device, dtype=dtype, **options)
        weights = load_state_dict_hf(pretrained_model_name, device=device)
        if model.config.tie_embeddings and "lm_head.weight" not in weights:
            weights["lm_head.weight"] = weights["backbone.embedding.weight"]
        model.load_state_dict(weights)
        return model

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write a folder that `from_pretrained` reads, here and upstream."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as parts:
            torch.save(self.state_dict(), Path(parts) / WEIGHTS)
            (Path(parts) / CONFIG).write_text(json.dumps(asdict(self.config), indent=4), encoding="utf-8")
            for name in (WEIGHTS, CONFIG):
                (Path(parts) / name).replace(folder / name)
