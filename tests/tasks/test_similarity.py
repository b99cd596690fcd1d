"""Similarities against closed forms, and against slow versions in float64 that loop over voxels."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch

from medmamba.tasks.separable import along_axes, box, cubic_spline, gaussian
from medmamba.tasks.similarity import FLAT, SIMILARITIES, lncc, mi, mind, mind_ssc, mse

SIZES = [(7, 9), (6, 8, 7)]


def images(size: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(2, 1, *size, generator=generator) * 3 + 5 for _ in range(2))  # type: ignore[return-value]


def masked(size: tuple[int, ...]) -> torch.Tensor:
    return (torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(9)) > 0.4).float()


def slow_lncc(moved: np.ndarray, fixed: np.ndarray, mask: np.ndarray, radii: tuple[int, ...]) -> float:
    """Of one image pair (*S), by the definition."""

    def standard(image: np.ndarray) -> np.ndarray:
        return (image - image[mask].mean()) / image[mask].std()

    moved, fixed = standard(moved), standard(fixed)
    values = []
    for at in np.argwhere(mask):
        window = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(at, radii, strict=True))
        one, other = moved[window][mask[window]], fixed[window][mask[window]]
        covariance = (one * other).mean() - one.mean() * other.mean()
        values.append(covariance**2 / ((one.var() + FLAT) * (other.var() + FLAT)))
    return 1 - float(np.mean(values))


@pytest.mark.parametrize("size", SIZES, ids=["2D", "3D"])
@pytest.mark.parametrize("with_mask", [False, True], ids=["all", "masked"])
def test_lncc_is_that_of_the_slow_version(size: tuple[int, ...], with_mask: bool) -> None:
    moved, fixed = images(size)
    mask = masked(size) if with_mask else torch.ones_like(moved)
    spacing = (1.0, 2.0, 1.0)[: len(size)]
    expected = [
        slow_lncc(
            moved[b, 0].double().numpy(), fixed[b, 0].double().numpy(), mask[b, 0].numpy() > 0, (2, 1, 2)[: len(size)]
        )
        for b in range(2)
    ]
    # Each entry by itself, as the mean over a batch weighs entries by their masks.
    for b in range(2):
        found = lncc(
            moved[b : b + 1],
            fixed[b : b + 1],
            mask[b : b + 1] if with_mask else None,
            radius=2,
            spacing_mm=spacing,
        )
        assert float(found) == pytest.approx(expected[b], abs=2e-5)


@pytest.mark.parametrize("window", [{"radius": 3}, {"sigma": 1.5}], ids=["box", "Gaussian"])
def test_lncc_of_inverted_contrast_is_small_and_of_flat_images_one(window: dict[str, float]) -> None:
    fixed = images((12, 12, 12))[0]
    assert float(lncc(100 - 40 * fixed, fixed, **window)) < 0.01
    flat = torch.full_like(fixed, 1000.0).requires_grad_()
    loss = lncc(flat, fixed, **window)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.0, abs=1e-6)
    assert flat.grad is not None
    assert bool(torch.isfinite(flat.grad).all())


def test_lncc_does_not_see_beyond_its_mask() -> None:
    moved, fixed = images((10, 10))
    mask = masked((10, 10))
    other = torch.where(mask > 0, moved, 1e4)
    assert float(lncc(moved, fixed, mask)) == pytest.approx(float(lncc(other, fixed, mask)), abs=1e-4)


def test_mse_is_the_mean_square_in_the_mask() -> None:
    fixed = torch.zeros(1, 1, 2, 2)
    moved = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert float(mse(moved, fixed)) == 7.5
    assert float(mse(moved, fixed, mask)) == 2.5


def spline(at: float) -> float:
    away = abs(at)
    return (4 - 6 * away**2 + 3 * away**3) / 6 if away < 1 else (2 - away) ** 3 / 6 if away < 2 else 0.0


def slow_mi(moved: np.ndarray, fixed: np.ndarray, bins: int) -> float:
    joint = np.zeros((bins + 2, bins + 2))

    def places(image: np.ndarray) -> np.ndarray:
        return (image - image.min()) / (image.max() - image.min()) * (bins - 1)

    for one, other in zip(places(moved).ravel(), places(fixed).ravel(), strict=True):
        for a, b in product(range(-1, bins + 1), repeat=2):
            joint[a + 1, b + 1] += spline(one - a) * spline(other - b) / moved.size
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    filled = joint > 0
    return -float((joint[filled] * np.log(joint[filled] / apart[filled])).sum())


def test_mi_is_that_of_the_slow_version() -> None:
    moved, fixed = images((6, 7))
    moved = moved + fixed
    expected = [slow_mi(moved[b, 0].double().numpy(), fixed[b, 0].double().numpy(), 8) for b in range(2)]
    assert float(mi(moved, fixed, bins=8)) == pytest.approx(np.mean(expected), abs=1e-5)


def test_mi_tells_dependence_whatever_the_contrast() -> None:
    # Two values at the ends of many bins: the windows of one do not reach the other's, and its information is log 2.
    fixed = (torch.arange(4096) % 2).float().reshape(1, 1, 64, 64)
    unrelated = (torch.arange(4096) // 64 % 2).float().reshape(1, 1, 64, 64)
    assert float(mi(-5 * fixed, fixed)) == pytest.approx(-math.log(2), abs=1e-4)
    assert float(mi(unrelated, fixed)) == pytest.approx(0.0, abs=1e-4)


def test_mi_of_samples_is_near_that_of_all_and_always_the_same() -> None:
    fixed = torch.rand(1, 1, 100, 100, generator=torch.Generator().manual_seed(3))
    moved = fixed**2
    few = [float(mi(moved, fixed, samples=2000)) for _ in range(2)]
    assert few[0] == few[1]
    assert few[0] == pytest.approx(float(mi(moved, fixed)), abs=0.1)


def slow_mind(image: np.ndarray, steps: tuple[int, ...], radii: tuple[int, ...]) -> np.ndarray:
    """Of one image (*S): voxel by voxel, with clamped indices."""
    dims, size = image.ndim, image.shape
    offsets = [tuple(sign * steps[axis] * (a == axis) for a in range(dims)) for axis in range(dims) for sign in (-1, 1)]
    pairs = [pair for pair in combinations(offsets, 2) if any(a + b for a, b in zip(*pair, strict=True))]

    def at(position: tuple[int, ...]) -> float:
        return float(image[tuple(min(max(p, 0), n - 1) for p, n in zip(position, size, strict=True))])

    apart = np.zeros((len(pairs), *size))
    patch = list(product(*(range(-r, r + 1) for r in radii)))
    for voxel in np.ndindex(size):
        for channel, (one, other) in enumerate(pairs):
            apart[(channel, *voxel)] = np.mean(
                [
                    (
                        at(tuple(v + p + a for v, p, a in zip(voxel, by, one, strict=True)))
                        - at(tuple(v + p + b for v, p, b in zip(voxel, by, other, strict=True)))
                    )
                    ** 2
                    for by in patch
                ]
            )
    apart -= apart.min(axis=0)
    variance = apart.mean(axis=0)
    return np.exp(-apart / np.clip(variance, variance.mean() / 1000, variance.mean() * 1000))


@pytest.mark.parametrize(
    ("size", "spacing", "steps", "radii"),
    [
        ((6, 5), None, (2, 2), (1, 1)),
        ((4, 5, 4), None, (2, 2, 2), (1, 1, 1)),
        ((4, 5, 3), (1, 1, 3.3), (2, 2, 1), (1, 1, 1)),
    ],
    ids=["2D", "3D", "anisotropic"],
)
def test_mind_is_that_of_the_slow_version(
    size: tuple[int, ...], spacing: tuple[float, ...] | None, steps: tuple[int, ...], radii: tuple[int, ...]
) -> None:
    image = images(size)[0]
    found = mind_ssc(image, spacing_mm=spacing)
    assert found.shape == (2, 12 if len(size) == 3 else 4, *size)
    for b in range(2):
        expected = slow_mind(image[b, 0].double().numpy(), steps, radii)
        assert np.abs(found[b].double().numpy() - expected).max() < 2e-4


def test_mind_ignores_contrast_and_sees_shape() -> None:
    fixed = images((12, 12, 12))[0]
    assert float(mind(3000 - 40 * fixed, fixed)) < 1e-6
    assert float(mind(fixed.roll(3, dims=2), fixed)) > 0.02
    flat = torch.zeros_like(fixed).requires_grad_()
    mind(flat, fixed).backward()
    assert flat.grad is not None
    assert bool(torch.isfinite(flat.grad).all())


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize("size", SIZES, ids=["2D", "3D"])
def test_gradients_are_those_of_finite_differences(name: str, size: tuple[int, ...]) -> None:
    moved, fixed = (image[:1, :, :4, :5].double() for image in images(size))
    mask = masked(size)[:1, :, :4, :5]

    # What is held constant on purpose (scale of intensities, range of bins, usual variance) follows the extremes.
    def loss(inner: torch.Tensor) -> torch.Tensor:
        return SIMILARITIES[name](inner, fixed, mask)

    analytic = torch.autograd.functional.jacobian(loss, moved)
    step = torch.zeros_like(moved)
    step[0, 0, 1, 2] = 1e-4
    numeric = (loss(moved + step) - loss(moved - step)) / 2e-4
    tolerance = {"lncc": 0.2, "mind": 0.05}.get(name, 1e-3)  # of those with constants, that move a little too
    assert float((analytic * step).sum() / 1e-4) == pytest.approx(
        float(numeric.sum()), rel=tolerance, abs=1e-3 * float(analytic.abs().max())
    )


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_bfloat16_under_autocast_is_computed_in_float32(name: str) -> None:
    moved, fixed = (image.bfloat16() for image in images((8, 8, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        half = SIMILARITIES[name](moved, fixed)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(SIMILARITIES[name](moved.float(), fixed.float())), abs=1e-6)


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_images_of_two_grids_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="one grid"):
        SIMILARITIES[name](torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))


def test_windows_are_those_written_out() -> None:
    image = torch.zeros(1, 1, 6, 5)
    image[0, 0, 2, 3] = 1
    boxed = along_axes(image, [box(6, 1, image), box(5, 2, image)])[0, 0]
    assert boxed.sum() == 3 * 4
    assert boxed[1:4, 1:].min() == 1
    smooth = along_axes(torch.ones(1, 1, 41, 41), [gaussian(41, 2.0, image)] * 2)[0, 0]
    assert float(smooth[20, 20]) == pytest.approx(1.0, abs=1e-6)
    assert float(cubic_spline(11, 2.5, image).sum(dim=1).sub(1).abs().max()) < 1e-6
