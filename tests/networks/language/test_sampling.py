"""Drawing tokens: the order of the rules, by hand-made logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medmamba.networks.language.sampling import GREEDY, Sampling

#: Probabilities 0.5, 0.3, 0.15, 0.05 of tokens 2, 0, 3, 1.
LOGITS = torch.tensor([[0.3, 0.05, 0.5, 0.15]]).log()
NO_TEXT = torch.zeros(1, 0, dtype=torch.long)


def shares(sampling: Sampling, logits: Tensor = LOGITS, text: Tensor = NO_TEXT, draws: int = 4000) -> list[float]:
    """How often each token is drawn."""
    generator = torch.Generator().manual_seed(0)
    drawn = sampling.draw(logits.expand(draws, -1), text.expand(draws, -1), generator)
    return (torch.bincount(drawn, minlength=4) / draws).tolist()


def test_greedy_takes_the_most_likely_token_of_each_row() -> None:
    assert GREEDY.draw(torch.tensor([[0.0, 2, 1], [3, -1, 3]]), torch.zeros(2, 1, dtype=torch.long)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.3, 0.05, 0.5, 0.15]),
        (Sampling(top_k=2), [0.375, 0, 0.625, 0]),
        (Sampling(top_k=99), [0.3, 0.05, 0.5, 0.15]),
        # 0.5 alone does not reach 0.6, 0.5 and 0.3 do.
        (Sampling(top_p=0.6), [0.375, 0, 0.625, 0]),
        (Sampling(top_p=0.49), [0, 0, 1, 0]),
        # Of the two most likely, 0.625 and 0.375: the first alone reaches 0.6, where it would not of all four.
        (Sampling(top_k=2, top_p=0.6), [0, 0, 1, 0]),
        # Squares 0.25, 0.09, 0.0225, 0.0025 of 0.365.
        (Sampling(temperature=0.5), [0.247, 0.007, 0.685, 0.062]),
        # The temperature comes first: 0.685 of the squares reaches 0.6.
        (Sampling(temperature=0.5, top_p=0.6), [0, 0, 1, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_the_rules_say(sampling: Sampling, expected: list[float]) -> None:
    found = shares(sampling)
    assert found == pytest.approx(expected, abs=0.03)
    assert [share == 0 for share in found] == [share == 0 for share in expected]


def test_penalty_divides_positive_logits_of_the_text_and_multiplies_negative_ones() -> None:
    logits, text = torch.tensor([[2.0, 1.5, -1.0, -1.5]]), torch.tensor([[0, 2, 2, 0]])
    assert Sampling(top_k=1, repetition_penalty=2.0).draw(logits, text).tolist() == [1]
    found = shares(Sampling(repetition_penalty=2.0), logits, text)
    assert found == pytest.approx(torch.tensor([1.0, 1.5, -2.0, -1.5]).softmax(0).tolist(), abs=0.03)


def test_same_generator_gives_the_same_tokens() -> None:
    rows = LOGITS.expand(50, -1)
    drawn = [
        Sampling().draw(rows, NO_TEXT.expand(50, -1), torch.Generator().manual_seed(seed)).tolist()
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", -1), ("top_p", 0.0), ("top_p", 1.5), ("temperature", 0.0), ("repetition_penalty", 0.0)],
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value}"):
        Sampling(**{name: value})  # type: ignore[arg-type]  # one of several fields
