"""How well pairs of real images are registered, and at what cost, beside other programs.

    python benchmarks/registration.py oasis --data oasis_brains/2mm --out results --ants ANTS/bin/python
    python benchmarks/registration.py mrct --data mr_ct --out results --ants ANTS/bin/python
    python benchmarks/registration.py speed --data oasis_brains/1mm --out results --ants ANTS/bin/python

``--ants`` is a Python with antspyx, in an environment of its own. All methods start from the same affine map, of
SimpleITK's mutual information, on the same grid, and run in turn, each in a process of its own on ``--threads``
threads. What is in ``--out`` already is not done again, so a run that was broken off goes on.

``oasis`` takes all ordered pairs of ``--subjects`` (files ``ID_t1.nii.gz`` and ``ID_labels.nii.gz``): Dice, mean over
structures above 1 ml, of labels moved by one nearest-neighbour interpolation; folding and the standard deviation of the
Jacobian's logarithm where the fixed image has labels; inverse consistency, how far a point comes back from itself
through both orders of a pair; seconds on the clock and of processors, and peak memory.

``mrct`` moves each CT (``ID/CT_image.nii.gz`` beside ``ID/MR_T1_image.nii.gz``, in one world) by a known smooth
deformation of up to 12 mm, registers it to the MR, and tells the distance from the truth inside the body: its mean and
95th percentile in mm. ``--still`` moves nothing.

``speed`` is ``oasis`` on one pair, with its own methods.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Methods by command: name -> what runs it and with which options. A network trained before is one more row of
#: "ours" whose options name the run, once `medmamba.registration.register` takes one.
METHODS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "oasis": {
        "affine": ("none", {}),
        "refine": ("ours", {"similarity": "lncc", "steps": 20}),
        "SyNOnly": ("ants", {"type_of_transform": "SyNOnly"}),
        "SyN": ("ants", {"type_of_transform": "SyN"}),
    },
    "mrct": {
        "none": ("none", {}),
        "refine MIND": (
            "ours",
            {"similarity": "mind", "steps": 30, "settings": {"shrink": [4, 2], "step_sigma": 3.0, "field_sigma": 1.5}},
        ),
        "SyNOnly": ("ants", {"type_of_transform": "SyNOnly"}),
        "SyN": ("ants", {"type_of_transform": "SyN"}),
    },
    "speed": {
        "refine 50": ("ours", {"similarity": "lncc", "steps": 50}),
        "SyNQuick": ("ants", {"type_of_transform": "antsRegistrationSyNQuick[so]"}),
    },
}
STRUCTURE_ML = 1.0
DIVISOR = 16
DEFORMATION_MM = 12.0
KNOTS_MM = 40.0
CT_WINDOW = (-200.0, 300.0)


# Pairs: a folder with fixed.nii.gz and moving.nii.gz on one grid, and pair.npz with what judges a field


def brains(data: Path, fixed_id: str, moving_id: str, folder: Path) -> None:
    fixed, moving = (canonical(data / f"{name}_t1.nii.gz") for name in (fixed_id, moving_id))
    labels = [canonical(data / f"{name}_labels.nii.gz") for name in (fixed_id, moving_id)]
    size = [-(-(n + 2) // DIVISOR) * DIVISOR for n in fixed[0].shape]
    edges = [((k - n) // 2, k - n - (k - n) // 2) for n, k in zip(fixed[0].shape, size, strict=True)]
    grid = fixed[1].copy()
    grid[:3, 3] -= grid[:3, :3] @ [before for before, _ in edges]
    on_grid = np.pad(fixed[0], edges).astype(np.float32)
    affine, moved = aligned((on_grid, grid), moving)
    save(folder, on_grid, moved, grid)
    np.savez_compressed(
        folder / "pair.npz",
        grid=grid,
        affine=affine,
        fixed_labels=np.pad(labels[0][0], edges).astype(np.int32),
        moving_labels=labels[1][0].astype(np.int32),
        moving_grid=moving[1],
    )


def deformed(data: Path, patient: str, folder: Path, still: bool) -> None:
    """The MR, and the CT on its grid after a smooth deformation whose inverse is to be found."""
    import torch
    import torch.nn.functional as F
    from scipy import ndimage

    from medmamba.transform import Affine, Transform, resample
    from medmamba.volume import Geometry, Volume
    from medmamba.warp import integrate, warp

    (fixed, grid), (ct, ct_grid) = (canonical(data / patient / f"{n}_image.nii.gz") for n in ("MR_T1", "CT"))
    onto = Geometry(fixed.shape, grid)
    stored = Volume(ct[None].astype(np.float32), Geometry(ct.shape, ct_grid))
    there = resample(stored, Transform((Affine(np.eye(4)),)), onto, "linear", outside=-1000.0).array[0]
    tissue = ndimage.binary_fill_holes(ndimage.gaussian_filter((there > -300).astype(np.float32), 1) > 0.5)
    parts, _ = ndimage.label(tissue)
    body = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    knots = [max(4, round(n * s / KNOTS_MM) + 1) for n, s in zip(fixed.shape, spacing, strict=True)]
    drawn = np.random.default_rng([ord(letter) for letter in patient]).standard_normal((1, 3, *knots))
    velocity = F.interpolate(torch.from_numpy(drawn).float(), size=fixed.shape, mode="trilinear", align_corners=True)
    smooth = [
        ndimage.gaussian_filter(part, 12 / spacing) / s for part, s in zip(velocity[0].numpy(), spacing, strict=True)
    ]
    velocity = torch.from_numpy(np.stack(smooth))[None]
    for _ in range(4):  # the largest displacement is nearly proportional to the velocity
        longest = np.linalg.norm(integrate(velocity)[0].numpy() * spacing.reshape(3, 1, 1, 1), axis=0).max()
        velocity = velocity * (0.0 if still else DEFORMATION_MM / longest)
        if still:
            break
    moving = warp(torch.from_numpy(there + 1000)[None, None].float(), integrate(-velocity))[0, 0].numpy() - 1000
    save(folder, fixed.astype(np.float32), np.clip(moving, *CT_WINDOW), grid)
    np.savez_compressed(folder / "pair.npz", grid=grid, body=body, truth=integrate(velocity)[0].numpy())


def aligned(fixed: tuple[Any, Any], moving: tuple[Any, Any]) -> tuple[Any, Any]:
    """Affine map of points of the fixed to points of the moving image (RAS mm), and the moving image through it."""
    import SimpleITK as sitk

    images = []
    for array, grid in (fixed, moving):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.astype(np.float32).T))
        image.SetSpacing(np.diag(grid)[:3].tolist())
        image.SetOrigin(grid[:3, 3].tolist())
        images.append(image)
    start = sitk.CenteredTransformInitializer(
        *images, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SetInitialTransform(start, True)
    method.Execute(*images)
    matrix, centre = np.array(start.GetMatrix()).reshape(3, 3), np.array(start.GetCenter())
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, np.array(start.GetTranslation()) + centre - matrix @ centre
    return affine, sitk.GetArrayFromImage(sitk.Resample(images[1], images[0], start, sitk.sitkLinear, 0.0)).T


def canonical(path: Path) -> tuple[Any, Any]:
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))
    affine = image.affine
    if not np.allclose(affine[:3, :3], np.diag(np.diag(affine[:3, :3])), atol=1e-4):
        raise SystemExit(f"{path} is oblique; this benchmark takes images along the world's axes")
    return np.asarray(image.dataobj), np.vstack(
        [np.column_stack([np.diag(np.diag(affine)[:3]), affine[:3, 3]]), affine[3]]
    )


def save(folder: Path, fixed: Any, moving: Any, grid: Any) -> None:
    import nibabel

    for name, array in (("fixed", fixed), ("moving", moving)):
        nibabel.save(nibabel.Nifti1Image(np.asarray(array, dtype=np.float32), grid), folder / f"{name}.nii.gz")


# Methods, each in a process of its own: reads the pair's images, writes the field (voxels, pull) and what it took


def run_none(folder: Path, field: Path, options: dict[str, Any]) -> None:
    import nibabel

    finish(field, np.zeros((3, *nibabel.load(folder / "fixed.nii.gz").shape), dtype=np.float32), *now())


def run_ours(folder: Path, field: Path, options: dict[str, Any]) -> None:
    import nibabel
    import torch

    from medmamba.registration.refine import RefineSettings, refine

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    files = [nibabel.load(folder / f"{name}.nii.gz") for name in ("moving", "fixed")]
    started = now()
    images = [torch.from_numpy(np.asarray(file.dataobj, dtype=np.float32))[None, None] for file in files]
    spacing = [float(s) for s in files[1].header.get_zooms()]
    settings = RefineSettings(**options.pop("settings", {}))
    found = refine(*images, spacing_mm=spacing, settings=settings, **options)
    print("\n".join(found.remarks), file=sys.stderr)
    finish(field, found.displacement[0].numpy(), *started)


def run_ants(folder: Path, field: Path, options: dict[str, Any]) -> None:
    import ants

    fixed, moving = (ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    started = now()
    found = ants.registration(fixed, moving, random_seed=1, **options)
    taken = [b - a for a, b in zip(started, now(), strict=True)]
    (warp,) = [path for path in found["fwdtransforms"] if path.endswith("Warp.nii.gz")]
    image = ants.image_read(warp)
    flip = np.array([-1.0, -1.0, 1.0])
    moved = np.moveaxis(image.numpy(), -1, 0) * flip.reshape(3, 1, 1, 1)
    for path in (path for path in found["fwdtransforms"] if path.endswith(".mat")):  # acts after the field
        transform = ants.read_transform(path)
        numbers, centre = np.array(transform.parameters), np.array(transform.fixed_parameters)
        matrix = numbers[:9].reshape(3, 3)
        shift = flip * (numbers[9:] + centre - matrix @ centre)
        matrix = flip[:, None] * matrix * flip
        axes = flip[:, None] * image.direction @ np.diag(image.spacing)
        place = axes @ np.indices(moved.shape[1:]).reshape(3, -1) + (flip * np.array(image.origin))[:, None]
        moved = (matrix @ (place + moved.reshape(3, -1)) + shift[:, None] - place).reshape(moved.shape)
    spacing = np.array(image.spacing).reshape(3, 1, 1, 1)
    ended = now()
    finish(field, (moved / spacing).astype(np.float32), *(end - each for end, each in zip(ended, taken, strict=True)))


def now() -> tuple[float, float]:
    """Seconds on the clock and of processors."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def peak_gib() -> float:
    """Of this process alone; what getrusage tells includes the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def finish(field: Path, displacement: Any, clock: float, processors: float) -> None:
    ended = now()
    cost = {
        "seconds": ended[0] - clock,
        "processor_seconds": ended[1] - processors,
        "peak_gib": peak_gib(),
    }
    np.savez_compressed(field, displacement=displacement, cost=json.dumps(cost))


# Measures


def measured(folder: Path, field: Path) -> dict[str, float]:
    import torch

    from medmamba.warp import jacobian_determinant

    pair, found = np.load(folder / "pair.npz"), np.load(field)
    displacement = found["displacement"]
    numbers: dict[str, float] = {}
    if "truth" in pair:
        spacing = np.diag(pair["grid"])[:3].reshape(3, 1, 1, 1)
        away = np.linalg.norm((displacement - pair["truth"]) * spacing, axis=0)[pair["body"]]
        numbers |= {"error_mm": float(away.mean()), "error_95_mm": float(np.percentile(away, 95))}
        mask = pair["body"]
    else:
        mask = pair["fixed_labels"] > 0
        numbers["dice"] = dice(pair, displacement)
    volume = jacobian_determinant(torch.from_numpy(displacement)[None])[0].numpy()[mask]
    numbers["folding_percent"] = float((volume <= 0).mean() * 100)
    numbers["sd_log_jacobian"] = float(np.log(volume.clip(1e-3)).std())
    return numbers | json.loads(str(found["cost"]))


def dice(pair: Any, displacement: Any) -> float:
    from medmamba.transform import resample
    from medmamba.volume import Geometry, Volume

    fixed = pair["fixed_labels"]
    onto = Geometry(fixed.shape, pair["grid"])
    moving = Volume(pair["moving_labels"][None], Geometry(pair["moving_labels"].shape, pair["moving_grid"]))
    moved = resample(moving, composite(pair, displacement), onto, "nearest").array[0]
    least = STRUCTURE_ML * 1000 / abs(np.linalg.det(pair["grid"][:3, :3]))
    counts = [np.bincount(part.ravel(), minlength=fixed.max() + 1) for part in (fixed, moved, fixed[fixed == moved])]
    kept = [label for label in range(1, fixed.max() + 1) if counts[0][label] > least]
    return float(np.mean([2 * counts[2][k] / (counts[0][k] + counts[1][k]) for k in kept]))


def composite(pair: Any, displacement: Any) -> Any:
    from medmamba.transform import Affine, Transform, field_of_voxels
    from medmamba.volume import Geometry

    field = field_of_voxels(displacement, Geometry(displacement.shape[1:], pair["grid"]))
    return Transform((field, Affine(pair["affine"])))


def inconsistency(out: Path, method: str, one: str, other: str) -> float:
    """Mean distance in mm of points in the labels of the fixed image from where both orders of a pair bring them."""
    transforms, start = [], None
    for name in (f"{one}_{other}", f"{other}_{one}"):
        pair = np.load(out / name / "pair.npz")
        transforms.append(composite(pair, np.load(out / name / f"{method}.npz")["displacement"]))
        if start is None:
            voxels = np.argwhere(pair["fixed_labels"] > 0)[::7]
            start = voxels @ pair["grid"][:3, :3].T + pair["grid"][:3, 3]
    back = transforms[1].points(transforms[0].points(start))
    return float(np.linalg.norm(back - start, axis=1).mean())


# Commands


def run(wanted: argparse.Namespace, pairs: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Numbers by method and pair; ``pairs`` has a function for each that makes its folder."""
    methods = {name: row for name, row in METHODS[wanted.what].items() if row[0] != "ants" or wanted.ants}
    numbers: dict[str, dict[str, dict[str, float]]] = {name: {} for name in methods}
    for pair, make in pairs.items():
        folder = wanted.out / pair
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "pair.npz").exists():
            make(folder)
        for name, (runner, options) in methods.items():
            done, field = folder / f"{name}.json", folder / f"{name}.npz"
            if not done.exists():
                python = str(wanted.ants) if runner == "ants" else sys.executable
                arguments = [python, __file__, f"run_{runner}", str(folder), str(field), json.dumps(options)]
                subprocess.run(arguments, check=True, env=threads(wanted.threads), stdout=subprocess.DEVNULL)
                done.write_text(json.dumps(measured(folder, field)))
            numbers[name][pair] = json.loads(done.read_text())
            told = ", ".join(f"{key} {value:.4g}" for key, value in numbers[name][pair].items())
            print(f"- {pair}, {name}: {told}", flush=True)
    return numbers


def threads(count: int) -> dict[str, str]:
    """Threads that wait do not count as work: without it, those of OpenMP burn the processor's seconds they wait."""
    number = str(count)
    limits = {"OMP_NUM_THREADS": number, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": number, "OMP_WAIT_POLICY": "passive"}
    return os.environ | limits


def table(numbers: dict[str, dict[str, dict[str, float]]]) -> None:
    columns = list(next(iter(next(iter(numbers.values())).values())))
    print(f"\n| method | pairs | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for name, pairs in numbers.items():
        means = [f"{np.mean([each[column] for each in pairs.values()]):.4g}" for column in columns]
        print(f"| {name} | {len(pairs)} | {' | '.join(means)} |")


def oasis(wanted: argparse.Namespace) -> None:
    ordered = list(itertools.permutations(wanted.subjects, 2))
    if wanted.what == "speed":
        ordered = ordered[:1]
    made = {
        f"{fixed}_{moving}": lambda folder, fixed=fixed, moving=moving: brains(wanted.data, fixed, moving, folder)
        for fixed, moving in ordered
    }
    numbers = run(wanted, made)
    for name, pairs in numbers.items():
        for fixed, moving in ordered if wanted.what == "oasis" else ():
            pairs[f"{fixed}_{moving}"]["inverse_mm"] = inconsistency(wanted.out, name, fixed, moving)
    table(numbers)


def mrct(wanted: argparse.Namespace) -> None:
    patients = wanted.subjects or sorted(folder.name for folder in wanted.data.iterdir() if folder.is_dir())
    made = {
        f"{patient}{'_still' * wanted.still}": lambda folder, patient=patient: deformed(
            wanted.data, patient, folder, wanted.still
        )
        for patient in patients
    }
    table(run(wanted, made))


def main() -> None:
    inner = {"run_none": run_none, "run_ours": run_ours, "run_ants": run_ants}
    if len(sys.argv) > 1 and sys.argv[1] in inner:
        inner[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    from machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(METHODS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of what was done; a run goes on from it")
    parser.add_argument("--ants", type=Path, help="a Python with antspyx; without it, its methods are left out")
    parser.add_argument("--subjects", nargs="+", help="of brains: which; of mrct: all if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--still", action="store_true", help="mrct: do not move the CT")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    if wanted.what != "mrct" and not wanted.subjects:
        wanted.subjects = sorted({path.name.split("_")[0] for path in wanted.data.glob("*_t1.nii.gz")})
    print(machine(), end="\n\n")
    {"oasis": oasis, "speed": oasis, "mrct": mrct}[wanted.what](wanted)


if __name__ == "__main__":
    main()
