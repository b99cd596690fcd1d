r"""How well MR and CT are registered, against deformations that are known, beside ANTs and elastix.

    python benchmarks/registration_mrct.py train --data mr_ct --out results --minutes 15
    python benchmarks/registration_mrct.py table --data mr_ct --out results --ants ANTS/bin/python \
        --elastix ITK/bin/python

``--data`` has a folder for each patient with ``MR_T1_image.nii.gz`` and ``CT_image.nii.gz`` in one world, and tumour
masks ``MR_T1_mask.nii.gz`` and ``CT_mask.nii.gz``. ``--ants`` and ``--elastix`` are Pythons with antspyx and with
itk-elastix, in environments of their own. What is in ``--out`` already is not done again.

``train`` makes a MambaMorph of the patients that are not ``--test``, by `medmamba plan` and `medmamba train`: their
images lie on one another, and it learns from made-up deformations of the CT (``registration.synthetic_mm``).

``table`` moves the CT of each ``--test`` patient by smooth deformations of up to 12 mm, ``--draws`` of them with a seed
each, and once not at all; brings it onto the MR by `medmamba register` and by the others, one pair at a time on a
thread; and tells how far each transform is from the truth inside the body: mean and 95th percentile in mm, and folded
voxels. Nothing is aligned before, as the pairs are in one world. Processor seconds are those of network and refinement
on the clock for ours (which are as many on one idle thread), and those of the registration alone for the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from registration_peers import peer, threads

MEDMAMBA = str(Path(sys.executable).parent / "medmamba")
DEFORMATION_MM = 12.0
KNOTS_MM = 40.0
#: Hounsfield units that other software gets the CT in; ours decides by itself.
CT_WINDOW = (-200.0, 400.0)
#: Landmarks in the body, by which the truth is written down for `medmamba evaluate` as well.
LANDMARKS = 500
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ANTs SyNOnly": ("ants", {"type_of_transform": "SyNOnly"}),
    "elastix": ("elastix", {}),
    "elastix, 40 mm": ("elastix", {"FinalGridSpacingInPhysicalUnits": "40", "Metric1Weight": "1000"}),
}
PLANNING = ["--task", "registration", "--network", "mambamorph", "--gpu-memory", "0.3"]
#: A coarse grid, and deformations larger than those of the test: finer and smaller ones taught a network nothing in the
#: time that there is.
TRAINING = {
    "spacing_mm": [8.44, 8.44, 8.76],
    "registration.affine": "none",
    "registration.similarity_weight": 0.0,
    "registration.synthetic_mm": 30.0,
    "registration.smoothness_weight": 0.0,
    "topology.features": [16, 16, 32, 64],
    "topology.patch_size": [16, 16, 24],
    "train.batch_size": 2,
    "train.learning_rate": 5e-4,
    "train.validation_steps": 2,
}


def training(wanted: argparse.Namespace) -> Path:
    """The run of the network, trained if it is not there."""
    table, work = wanted.out / "training.csv", wanted.out / "network"
    rows = [
        f"{name},{wanted.data / name / 'MR_T1_image.nii.gz'},{wanted.data / name / 'CT_image.nii.gz'}"
        for name in sorted(path.name for path in wanted.data.iterdir() if path.is_dir())
        if name not in wanted.test
    ]
    table.write_text("\n".join(["id,fixed,moving", *rows]) + "\n")
    with (wanted.out / "training.log").open("a") as log:
        changes = [part for key, value in TRAINING.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        if not work.exists():
            command = [MEDMAMBA, "plan", str(table), *PLANNING, "--work", str(work), *changes]
            subprocess.run(command, check=True, stdout=log, stderr=log, env=threads(wanted.threads))
        (plan,) = work.glob("*/*/plan.json")
        run = plan.parent / "fold_all"
        budget = [] if run.exists() else ["--budget", f"{wanted.minutes:g}m"]
        command = [MEDMAMBA, "train", str(plan), "--fold", "all", "--workers", "0", "--precision", "fp32"]
        command += budget
        subprocess.run(command, check=True, stdout=log, stderr=log, env=threads(wanted.threads))
    return run


# Pairs


def deformed(data: Path, patient: str, draw: int, folder: Path) -> None:
    """The MR, and the CT on its grid after a smooth deformation, nothing where draw is 0; and what it was."""
    import torch
    import torch.nn.functional as F
    from scipy import ndimage

    from medmamba import io
    from medmamba.io.points import Points, write_points
    from medmamba.transform import Transform, field_of_voxels, resample
    from medmamba.volume import Volume
    from medmamba.warp import integrate, warp

    fixed, ct = (io.read(data / patient / f"{name}_image.nii.gz") for name in ("MR_T1", "CT"))
    grid, spacing = fixed.geometry, np.array(fixed.geometry.spacing_mm)
    there = resample(ct, Transform(), grid, outside=-1000.0).array[0].astype(np.float32)
    tissue = ndimage.binary_fill_holes(ndimage.gaussian_filter((there > -300).astype(np.float32), 1) > 0.5)
    parts, _ = ndimage.label(tissue)
    body = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    knots = [max(4, round(n * s / KNOTS_MM) + 1) for n, s in zip(grid.shape, spacing, strict=True)]
    random = np.random.default_rng([*map(ord, patient), draw])
    drawn = torch.from_numpy(random.standard_normal((1, 3, *knots))).float()
    velocity = F.interpolate(drawn, size=grid.shape, mode="trilinear", align_corners=True)
    ways = [ndimage.gaussian_filter(way, 12 / spacing) / s for way, s in zip(velocity[0].numpy(), spacing, strict=True)]
    velocity = torch.from_numpy(np.stack(ways))[None] * bool(draw)
    for _ in range(4 * bool(draw)):  # the largest displacement is nearly proportional to the velocity
        longest = np.linalg.norm(integrate(velocity)[0].numpy() * spacing.reshape(3, 1, 1, 1), axis=0).max()
        velocity = velocity * (DEFORMATION_MM / longest)
    away = integrate(-velocity)
    moving = warp(torch.from_numpy(there + 1000)[None, None], away)[0].numpy() - 1000
    folder.mkdir(parents=True)
    io.write(fixed, folder / "fixed.nii.gz")
    io.write(Volume(moving, grid), folder / "moving.nii.gz")
    io.write(Volume(np.clip(moving, *CT_WINDOW), grid), folder / "moving_window.nii.gz")
    fixed_mask, ct_mask = (io.read_label(data / patient / f"{name}_mask.nii.gz") for name in ("MR_T1", "CT"))
    there = resample(ct_mask, Transform(), grid, "nearest").array[0].astype(np.float32)
    moved = warp(torch.from_numpy(there)[None, None], away, "nearest")[0].numpy()
    io.write(fixed_mask, folder / "fixed_label.nii.gz")
    io.write(Volume(moved.astype(np.uint8), grid), folder / "moving_label.nii.gz")
    places = np.argwhere(body)[random.permutation(int(body.sum()))[:20_000]]
    at = places @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    truth = Transform((field_of_voxels(integrate(velocity)[0].numpy(), grid),)).points(at)
    np.savez_compressed(folder / "truth.npz", fixed=at, moving=truth)
    for name, mm in (("fixed", at), ("moving", truth)):
        names = tuple(str(number) for number in range(min(LANDMARKS, len(mm))))
        write_points(Points(names, mm[: len(names)], "RAS"), folder / f"{name}_points.csv")


def pairs_of(wanted: argparse.Namespace) -> Path:
    """The table of all pairs."""
    rows = ["id,fixed,moving,fixed_label,moving_label,fixed_points,moving_points"]
    for patient in wanted.test:
        for draw in range(wanted.draws + 1):
            folder = wanted.out / "pairs" / f"{patient}_{draw or 'still'}"
            if not folder.exists():
                deformed(wanted.data, patient, draw, folder)
            files = [
                f"{side}{end}" for end in (".nii.gz", "_label.nii.gz", "_points.csv") for side in ("fixed", "moving")
            ]
            rows.append(",".join([folder.name, *(str(folder / name) for name in files)]))
    table = wanted.out / "pairs.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


# Methods


def methods_of(run: Path) -> dict[str, list[str]]:
    """Options of `medmamba register`."""
    model = ["--model", str(run)]
    return {
        "nothing": ["--refine", "0"],
        "refine 30, MIND": ["--refine", "30", "--similarity", "mind"],
        "refine 30, MI": ["--refine", "30", "--similarity", "mi"],
        "refine 30, MIND, free": ["--refine", "30", "--similarity", "mind", "--deformation", "free"],
        "MambaMorph": [*model, "--refine", "0"],
        "MambaMorph, refine 30, MIND": [*model, "--refine", "30", "--similarity", "mind"],
    }


def by_peer(wanted: argparse.Namespace, name: str) -> None:
    kind, options = PEERS[name]
    pairs = sorted(path.name for path in (wanted.out / "pairs").iterdir())
    for pair in pairs:
        folder = wanted.out / "pairs" / pair
        record = {
            side: {
                "image": str(folder / f"{side}.nii.gz"),
                "label": str(folder / f"{side}_label.nii.gz"),
                "points": str(folder / f"{side}_points.csv"),
            }
            for side in ("fixed", "moving")
        }
        seen = record | {"moving": record["moving"] | {"image": str(folder / "moving_window.nii.gz")}}
        peer(kind, getattr(wanted, kind), seen, wanted.out / "methods" / name / pair, options, wanted.threads)
    overview = wanted.out / "methods" / name / "registration.json"
    overview.write_text(json.dumps({"pairs": {pair: {"status": "done"} for pair in pairs}}))


def numbers_of(wanted: argparse.Namespace, name: str, pair: str) -> dict[str, float]:
    from medmamba import io
    from medmamba.evaluation.deformation import folding_percent, jacobian
    from medmamba.io.formats.transforms import read_transform

    folder = wanted.out / "methods" / name / pair
    truth = np.load(wanted.out / "pairs" / pair / "truth.npz")
    transform = read_transform(folder / "transform.h5")
    away = np.linalg.norm(transform.points(truth["fixed"]) - truth["moving"], axis=1)
    grid = io.read_geometry(wanted.out / "pairs" / pair / "fixed.nii.gz")
    spent = json.loads((folder / "run.json").read_text())["seconds"]
    return {
        "mean": float(away.mean()),
        "95": float(np.percentile(away, 95)),
        "folded": folding_percent(jacobian(transform, grid), np.ones(grid.shape, dtype=bool)),
        "seconds": spent.get("processor", spent.get("network", 0.0) + spent.get("refine", 0.0)),
    }


def show(wanted: argparse.Namespace, names: Iterable[str]) -> None:
    for title, wants in (("moved", lambda pair: "still" not in pair), ("not moved", lambda pair: "still" in pair)):
        pairs = sorted(path.name for path in (wanted.out / "pairs").iterdir() if wants(path.name))
        print(f"\n{title}: error, mean / 95th percentile in mm\n")
        print(f"| method | {' | '.join(pairs)} | mean | folded % | processor s |\n|{'---|' * (len(pairs) + 4)}")
        for name in names:
            found = [numbers_of(wanted, name, pair) for pair in pairs]
            cells = [f"{each['mean']:.2f} / {each['95']:.2f}" for each in found]
            mean = {key: np.mean([each[key] for each in found]) for key in found[0]}
            cells += [f"{mean['mean']:.2f} / {mean['95']:.2f}", f"{mean['folded']:.3f}", f"{mean['seconds']:.1f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def table(wanted: argparse.Namespace) -> None:
    run, pairs = training(wanted), pairs_of(wanted)
    methods = methods_of(run)
    with (wanted.out / "register.log").open("a") as log:
        for name, options in methods.items():
            command = [MEDMAMBA, "register", "--pairs", str(pairs), "-o", str(wanted.out / "methods" / name)]
            command += ["--affine", "none", *options]
            subprocess.run(command, check=True, stdout=log, stderr=log, env=threads(wanted.threads))
    peers = [name for name, (kind, _) in PEERS.items() if getattr(wanted, kind)]
    for name in peers:
        by_peer(wanted, name)
    show(wanted, [*methods, *peers])


def main() -> None:
    from machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of what was done; a run goes on from it")
    parser.add_argument("--test", nargs="+", default=["STS_010", "STS_012", "STS_014"], help="not trained on")
    parser.add_argument("--draws", type=int, default=2, help="deformations of each patient")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ants", type=Path, help="a Python with antspyx; without it, it is left out")
    parser.add_argument("--elastix", type=Path, help="a Python with itk-elastix; without it, it is left out")
    wanted = parser.parse_args()
    wanted.data, wanted.out = wanted.data.resolve(), wanted.out.resolve()
    wanted.out.mkdir(parents=True, exist_ok=True)
    print(machine(), flush=True)
    {"train": training, "table": table}[wanted.what](wanted)


if __name__ == "__main__":
    main()
