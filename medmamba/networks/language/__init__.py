"""Language models of Mamba blocks, and how their tokens are drawn."""

from medmamba.networks.language.mamba import PIECE, SIZES, MambaLM, TextState, bits_per_byte

__all__ = ["PIECE", "SIZES", "MambaLM", "TextState", "bits_per_byte"]
