"""`mamba_ssm.utils.generation`: going on from a text, token by token, with recurrent states.

Letters: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


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
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


class Streamer(Protocol):
    """What is told of each token as it is chosen; `transformers.TextStreamer` is one."""

    def put(self, value: Tensor) -> None:
        """Take tokens (B, L), those that were given first."""

    def end(self) -> None:
        """Take note that no more tokens follow."""


class Decoded(NamedTuple):
    """Tokens (B, L), and the logits (B, V) that each new one was chosen by."""

    sequences: Tensor
    scores: tuple[Tensor, ...] | None = None


#: What upstream calls them.
GreedySearchDecoderOnlyOutput = SampleDecoderOnlyOutput = Decoded


@dataclass
class DecodingCGCache:
    """What repeats a step of decoding; upstream's replays a graph of CUDA, ours runs the step."""

    max_batch_size: int = 0
    max_seqlen: int = 0
    inference_params: InferenceParams | None = None
    run: Callable[[Tensor, Tensor | None, int], Tensor] | None = None


def update_graph_cache(
    model: Any,
    cache: DecodingCGCache | None,
    batch_size: int,
    seqlen_og: int,
    max_seqlen: int,
    decoding_seqlens: tuple[int, ...] = (1,),
    dtype: torch.dtype | None = None,
    n_warmups: int = 2,
) -> DecodingCGCache:
    """A cache whose ``run(input_ids, position_ids, seqlen)`` gives the logits of a step, with states of its own.

    Args:
        model: has ``allocate_inference_cache``.
        cache: one for the same model, used again if it is large enough.
        batch_size: entries.
        seqlen_og: tokens that are given.
        max_seqlen: tokens in the end.
        decoding_seqlens: taken and of no effect, as is n_warmups.
        dtype: of the states; None: as the model has it.
        n_warmups: see decoding_seqlens.
    """
    if cache is None or batch_size > cache.max_batch_size or max_seqlen > cache.max_seqlen:
        states = model.allocate_inference_cache(batch_size, max_seqlen, dtype)
        params = InferenceParams(max_seqlen, batch_size, key_value_memory_dict=states)
        cache = DecodingCGCache(batch_size, max_seqlen, params)

        def run(input_ids: Tensor, position_ids: Tensor | None, seqlen: int) -> Tensor:
            params.seqlen_offset = seqlen
            output = model(
                input_ids, position_ids=position_ids, inference_params=params, num_last_tokens=input_ids.shape[1]
            )
            logits: Tensor = output.logits
            return logits

        cache.run = run
    return cache


def modify_logits_for_top_k_filtering(logits: Tensor, top_k: int) -> None:
    """Set all logits but the k largest of each row to minus infinity, in place."""
    smallest = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    logits.masked_fill_(logits < smallest, -torch.inf)


def modify_logits_for_top_p_filtering(logits: Tensor, top_p: float) -> None:
    """Set all logits but those of the likeliest tokens that make up top_p to minus infinity, in place."""
    if not 0 < top_p < 1:
        return
    likeliest, order = logits.sort(dim=-1, descending=True)
    probability = likeliest.softmax(-1)
    beyond = probability.cumsum(-1) - probability >= top_p
    logits.masked_fill_(beyond.scatter(-1, order, beyond), -torch.inf)


def modify_logits_for_min_p_filtering(logits: Tensor, min_p: float) -> None:
    """Set the logits of tokens less likely than min_p times the likeliest to minus infinity, in place."""
    if not 0 < min_p < 1:
        return
    probability = logits.softmax(-1)
    logits.masked_fill_(probability < min_p * probability.amax(-1, keepdim=True), -torch.inf)


def modify_logit_for_repetition_penalty(
    logits: Tensor, prev_output_tokens: Tensor, repetition_penalty: float = 1.0
) -> Tensor:
    """Make tokens (B, L) less likely that were there: logits (B, V) over, if negative times the penalty; in place."""
    if repetition_penalty == 1.0:
        return logits
    seen = logits.gather(1, prev_output_tokens)
    seen = torch.where(seen < 0, seen * repetition_penalty, seen / repetition_penalty)
    return logits.scatter_(1, prev_output_tokens, seen)


def sample(logits: Tensor, top_k: int = 1, top_p: float = 0.0, min_p: float = 0.0, temperature: float = 1.0) -> Tensor:
    """Choose tokens (B,) by logits (B, V).

    Args:
        logits: unchanged.
        top_k: how many of the likeliest may be chosen; 1: the likeliest is, without chance; 0: any.
        top_p: of these the likeliest that make up so much probability, at the temperature; 0: all.
        min_p: without top_k, those at least so likely as this times the likeliest; 0: all.
        temperature: above 1 evens out, below 1 sharpens.

    Raises:
        ValueError: if top_p is above 1.
    """
    if top_k == 1:
        return logits.argmax(dim=-1)
    if top_p > 1:
        raise ValueError(f"sample: top_p must be from 0 to 1, but is {top_p}")
    logits = logits.clone()
    if top_k > 0:
        modify_logits_for_top_k_filtering(logits, top_k)
    else:
        modify_logits_for_min_p_filtering(logits, min_p)
    logits = logits / temperature
    modify_logits_for_top_p_filtering(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), num_samples=1)[:, 0]


@torch.inference_mode()
def decode(
    input_ids: Tensor,
    model: Callable[..., Any],
    max_length: int,
    top_k: int = 1,
    top_p: float = 0.0,
    min_p: float = 0.0,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    eos_token_id: int | None = None,
    teacher_outputs: Tensor | None = None,
    vocab_size: int | None = None,
    cg: bool = False,
    enable_timing: bool = False,
    streamer: Streamer | None = None,
) -> Decoded:
    """Go on from tokens up to max_length of them.

    Args:
        input_ids: (B, L), all of one length.
        model: takes tokens, ``position_ids``, ``inference_params`` and ``num_last_tokens``; returns ``logits``.
        max_length: tokens with those given. If there are as many already, none is added.
        top_k: as in `sample`.
        top_p: as in `sample`.
        min_p: as in `sample`.
        temperature: as in `sample`.
        repetition_penalty: for tokens that were there, those given included; 1: none.
        eos_token_id: ends it as soon as all entries choose it.
        teacher_outputs: (B, L), tokens to take as far as they reach instead of those chosen, for tests.
        vocab_size: only tokens below it are chosen, say because the vocabulary was padded.
        cg: taken and of no effect: to replay a step as a graph of CUDA saves time, and changes nothing.
        enable_timing: whether to print how long it took.
        streamer: is told of each token.

    Returns:
        Tokens, and the logits that each was chosen by, before the penalty.
    """
    begun = time.perf_counter()
    if streamer is not None:
        streamer.put(input_ids.cpu())
    batch, state, scores = input_ids.shape[0], InferenceParams(max_length, input_ids.shape[0]), []
    sequences, latest = input_ids, input_ids
    while sequences.shape[1] < max_length:
        offset = state.seqlen_offset
        positions = torch.full((batch, 1), offset, dtype=torch.long, device=input_ids.device) if offset else None
        logits = model(latest, position_ids=positions, inference_params=state, num_last_tokens=1).logits[:, -1]
        scores.append(logits[..., :vocab_size])
        state.seqlen_offset = sequences.shape[1]
        if teacher_outputs is not None and teacher_outputs.shape[1] > sequences.shape[1]:
            chosen = teacher_outputs[:, sequences.shape[1]]
        else:
            weighed = modify_logit_for_repetition_penalty(scores[-1].clone(), sequences, repetition_penalty)
            chosen = sample(weighed, top_k, top_p, min_p, temperature)
        latest = chosen[:, None]
        sequences = torch.cat([sequences, latest], dim=1)
        if streamer is not None:
            streamer.put(latest.cpu())
        if eos_token_id is not None and bool((chosen == eos_token_id).all()):
            break
    if streamer is not None:
        streamer.end()
    if enable_timing:
        if sequences.is_cuda:
            torch.cuda.synchronize()
        print(f"Prompt processing + decoding time: {1000 * (time.perf_counter() - begun):.0f}ms")
    return Decoded(sequences, tuple(scores))


class GenerationMixin:
    """Gives a model `generate`."""

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **options: Any
    ) -> Any:
        """The states of all layers; models have their own."""
        raise NotImplementedError(f"{type(self).__name__} has no allocate_inference_cache; decoding needs one")

    def generate(
        self,
        input_ids: Tensor,
        max_length: int,
        top_k: int = 1,
        top_p: float = 0.0,
        min_p: float = 0.0,
        temperature: float = 1.0,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
        **options: Any,
    ) -> Tensor | Decoded:
        """As `decode`, whose other arguments are taken too: the tokens, or with return_dict_in_generate a `Decoded`."""
        assert callable(self)
        output = decode(
            input_ids, self, max_length, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature, **options
        )
        if not return_dict_in_generate:
            return output.sequences
        return output if output_scores else output._replace(scores=None)
