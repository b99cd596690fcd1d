"""MambaByte, by the names of the authors' code or of Mamba's language model; and a stack that others published.

The stack of the repository ``kyegomez/MambaByte`` has neither embedding nor logits.
"""

from __future__ import annotations

from functools import partial

from medmamba.networks.language._stack import MambaStack
from medmamba.networks.language.mambabyte import MambaByte
from medmamba.networks.mamba import MambaBlock
from medmamba.networks.published._blocks import BLOCK, START_AND_SPEED
from medmamba.networks.published._names import renamed
from medmamba.networks.published._system import Config, System, UpstreamError, Weights, arguments
from medmamba.networks.published.mamba import our_names

#: Settings of Mamba's language model that must be as published.
_USUAL = {"vocab_size": 256, "rms_norm": False, "tie_embeddings": False, "ssm_cfg": {}, "residual_in_fp32": True}
_AUTHORS = (
    (r"^mambabyte\.token_embedding\.", "backbone.embedding."),
    (r"^mambabyte\.final_norm\.", "backbone.norm_f."),
    (r"^mambabyte\.layers\.", "backbone.layers."),
)


def _make(config: Config, weights: Weights) -> tuple[MambaByte, Weights]:
    if other := [name for name, value in _USUAL.items() if config.get(name, value) != value]:
        raise UpstreamError(
            f"only MambaByte as published is known here, but {', '.join(other)} differ; load it as 'mamba_lm'"
        )
    return MambaByte(config["d_model"], config["n_layer"]), our_names(renamed(weights, _AUTHORS))


def _make_stack(config: Config, weights: Weights) -> tuple[MambaStack, Weights]:
    block = {name: config[name] for name in BLOCK if name in config} | {"expand": config.get("expand_factor", 2)}
    return MambaStack(config["dim"], config["depth"], block=partial(MambaBlock, **block)), weights


SYSTEMS = {
    "mambabyte": System(
        what="stack of Mamba blocks",
        make=_make_stack,
        needs=arguments(count="dim depth"),
        takes=arguments(number="expand_factor", count="d_state d_conv", rank="dt_rank", truth="conv_bias bias"),
        knows=arguments(any="pscan") | START_AND_SPEED,  # which chooses only how the original computes
        marks=(r"layers\.0\.mixer\.A_log",),
    ),
    "mambabyte_lm": System(
        what="MambaByte",
        make=_make,
        needs=arguments(count="d_model n_layer"),
        knows=arguments(any="fused_add_norm pad_vocab_size_multiple " + " ".join(_USUAL)),
        marks=(r"(mambabyte\.token_embedding|backbone\.embedding)\.weight",),
        family="mambabyte_lm",
    ),
}
