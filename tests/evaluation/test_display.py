"""Where pictures are cut."""

from __future__ import annotations

import numpy as np
import pytest

from medmamba.evaluation.display import most_of_largest


def test_slices_go_where_the_largest_structure_has_most() -> None:
    marked = np.zeros((8, 9, 7), dtype=bool)
    marked[1:4, 2:5, 1:4] = marked[2, 2:7, 2] = True
    marked[6, 8, :] = True
    assert most_of_largest(marked) == (2, 2, 2)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 3, 3), (1, 7, 9)])
def test_slices_go_through_as_many_structures_as_there_can_be(shape: tuple[int, ...]) -> None:
    marked = (np.indices(shape) % 2 == 0).all(axis=0)
    assert marked[most_of_largest(marked)]


def test_slices_go_through_the_middle_of_nothing() -> None:
    assert most_of_largest(np.zeros((4, 5, 6), dtype=bool)) == (2, 2, 3)
