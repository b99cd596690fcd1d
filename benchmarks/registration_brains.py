"""How well brains are registered, by which of our means and beside ANTs, and at what cost.

    python benchmarks/registration_brains.py table --data oasis_brains/2mm --out results --ants ANTS/bin/python
    python benchmarks/registration_brains.py speed --data oasis_brains/1mm --out results --ants ANTS/bin/python

``--data`` has files ``ID_t1.nii.gz`` and ``ID_labels.nii.gz``; ``--ants`` is a Python with antspyx, in an environment
of its own. What is in ``--out`` already is not done again, so a run that was broken off goes on.

``table`` trains each network on the first subjects for ``--minutes``, two networks at a time on a thread each, and
registers all ordered pairs of the last ``--test`` subjects by `medmamba register` and by ANTs, two pairs at a time on
a thread each. All start from the affine map that `medmamba register` finds; ANTs' SyN improves it first.
`medmamba evaluate` judges all transforms alike: Dice and HD95, means over structures of 1 ml and more in the mean of
the fixed images, and what its report has of whole pairs. Two columns are of this script: inverse consistency, how far
a point in the labels of the fixed image comes back from itself through both orders of a pair (the affine maps, which
each order finds by itself, included); and the p value of Wilcoxon's signed ranks of the pairs' Dice against the
method of ``--against``, after Holm over the methods, which is too sure as pairs share images. Seconds are those of
the clock for network and refinement, or for ANTs, without reading and writing.

``speed`` registers the first two subjects to one another, in turn with ANTs' quick script on the same affine map, on
both threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from registration_peers import at_once, peer, threads

#: Networks by name: options of `medmamba plan` and `medmamba train`. MambaMorph in widths that train here at all.
NARROW = ["--set", "topology.features=[8, 16, 24, 48, 96]", "--set", "network.options.feature_width=0"]
NETWORKS: dict[str, tuple[list[str], list[str]]] = {
    "MambaMorph": (["--network", "mambamorph"], NARROW),
    "MambaMorph, no Mamba": (["--network", "mambamorph", "--mixer", "none"], NARROW),
    "U-Net": (["--network", "voxelmorph"], []),
    "coarse to fine": (["--network", "pyramid"], []),
}
#: Options of antspyx, by name. All but those with "Only" look for an affine map again, from the one they are given.
ANTS: dict[str, dict[str, Any]] = {
    "ANTs SyNOnly": {"type_of_transform": "SyNOnly"},
    "ANTs SyN": {"type_of_transform": "SyN"},
    "ANTs SyNOnly, CC": {"type_of_transform": "SyNOnly", "syn_metric": "CC", "syn_sampling": 4},
}
QUICK: dict[str, dict[str, Any]] = {"ANTs SyNQuick": {"type_of_transform": "antsRegistrationSyNQuick[so]"}}
FEW, REFINE = 5, 20
AFFINE = "affine"
FIGURES = ("folding", "sd_log_jacobian")
MEDMAMBA = str(Path(sys.executable).parent / "medmamba")


def commands(wanted: argparse.Namespace) -> dict[str, list[str]]:
    """Options of `medmamba register` by name of the method."""
    methods = {AFFINE: ["--refine", "0"]} | {f"refine {steps}": ["--refine", str(steps)] for steps in (FEW, REFINE)}
    for name in NETWORKS:
        model = ["--model", str(run_of(wanted, name))]
        methods |= {name: [*model, "--refine", "0"], f"{name}, refine {REFINE}": [*model, "--refine", str(REFINE)]}
    return methods


# Networks


def run_of(wanted: argparse.Namespace, name: str) -> Path:
    (plan,) = sorted((wanted.out / "networks" / name).glob("*/*/plan.json"))[:1]
    return plan.parent / "fold_all"


def train(wanted: argparse.Namespace) -> None:
    """Two networks at a time, each on a thread."""
    images = linked(wanted, wanted.out / "train", wanted.subjects[: -wanted.test])

    def one(name: str) -> None:
        plan_options, train_options = NETWORKS[name]
        work = wanted.out / "networks" / name
        with (wanted.out / f"{name}.log").open("a") as log:
            if not work.exists():
                planning = [MEDMAMBA, "plan", str(images), "--task", "registration", "--work", str(work)]
                subprocess.run([*planning, *plan_options], check=True, stdout=log, stderr=log, env=threads(1))
            run = run_of(wanted, name)
            training = [MEDMAMBA, "train", str(run.parent / "plan.json"), "--fold", "all", "--workers", "0"]
            budget = (
                []
                if run.exists()
                else ["--budget", f"{wanted.minutes:g}m", "--set", "train.validation_steps=2", *train_options]
            )
            subprocess.run([*training, *budget], check=True, stdout=log, stderr=log, env=threads(1))

    at_once(2, one, NETWORKS)


def linked(wanted: argparse.Namespace, folder: Path, subjects: Iterable[str]) -> Path:
    """A folder of some subjects."""
    folder.mkdir(exist_ok=True)
    for name in (f"{subject}_{kind}.nii.gz" for subject in subjects for kind in ("t1", "labels")):
        if not (folder / name).exists():
            (folder / name).symlink_to((wanted.data / name).resolve())
    return folder


# Methods


def register(wanted: argparse.Namespace, images: Path, name: str, options: list[str], count: int) -> None:
    command = [MEDMAMBA, "register", "--fixed", str(images), "-o", str(wanted.out / "methods" / name), *options]
    with (wanted.out / "register.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env=threads(count))


def by_ants(wanted: argparse.Namespace, name: str, options: dict[str, Any], pairs: Iterable[str], count: int) -> None:
    """Pairs whose affine map is there."""
    given, place = wanted.out / "methods" / AFFINE, wanted.out / "methods" / name

    def one(pair: str) -> None:
        record = json.loads((given / pair / "run.json").read_text())
        peer("ants", wanted.ants, record, place / pair, options, count, str(given / pair / "affine.tfm"))

    at_once(max(1, 2 // count), one, pairs)
    (place / "registration.json").write_text(json.dumps({"pairs": {pair: {"status": "done"} for pair in pairs}}))


# Numbers


def evaluated(wanted: argparse.Namespace, name: str) -> dict[str, dict[str, float]]:
    """Numbers by pair."""
    place = wanted.out / "methods" / name
    if not (place / "report.json").exists():
        command = [MEDMAMBA, "evaluate", str(place), "--least-ml", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=threads(1))
    from medmamba.evaluation.report import Report

    report = Report.load(place / "report.json")
    numbers = {}
    for case in report.cases:
        record = json.loads((place / case.id / "run.json").read_text())
        spent = record["seconds"]
        seconds = spent.get("registration", spent.get("network", 0.0) + spent.get("refine", 0.0))
        numbers[case.id] = {
            **dict(zip(report.metrics, np.nanmean([score.values for score in case.scores], axis=0), strict=True)),
            **{name: case.figures[name] for name in FIGURES},
            "seconds": seconds,
            "peak_gib": record["peak_bytes"] / 2**30,
        }
    return numbers


def there_and_back(place: Path, pair: str, other: str) -> float:
    """Mean distance in mm of points in the labels of the fixed image from where both orders of a pair bring them."""
    from medmamba.io import read_label
    from medmamba.io.formats.transforms import read_transform

    labels = read_label(Path(json.loads((place / pair / "run.json").read_text())["fixed"]["label"]))
    affine = labels.geometry.affine
    start = np.argwhere(labels.array[0] > 0)[::7] @ affine[:3, :3].T + affine[:3, 3]
    first, second = (read_transform(place / name / "transform.h5") for name in (pair, other))
    return float(np.linalg.norm(second.points(first.points(start)) - start, axis=1).mean())


def p_values(numbers: dict[str, dict[str, dict[str, float]]], against: str) -> dict[str, float]:
    """Of Wilcoxon's signed ranks of the Dice of pairs against one method, after Holm."""
    from scipy.stats import wilcoxon

    def dice(name: str) -> Any:
        return np.array([numbers[name][pair]["dice"] for pair in sorted(numbers[name])])

    raw = {name: float(wilcoxon(dice(name), dice(against)).pvalue) for name in numbers if name != against}
    adjusted, worst = {}, 0.0
    for place, name in enumerate(sorted(raw, key=lambda each: raw[each])):
        worst = max(worst, min(1.0, raw[name] * (len(raw) - place)))
        adjusted[name] = worst
    return adjusted


def show(wanted: argparse.Namespace, names: Iterable[str]) -> None:
    numbers = {name: evaluated(wanted, name) for name in names}
    for name, pairs in numbers.items():
        for pair, row in pairs.items():
            one, other = pair.split("_to_")
            row["there and back"] = there_and_back(wanted.out / "methods" / name, pair, f"{other}_to_{one}")
    beside = p_values(numbers, wanted.against) if wanted.against in numbers and len(numbers) > 1 else {}
    told = ("method", "pairs", "Dice", "SD of pairs", f"p against {wanted.against}", "HD95 mm", "folded %", "SD log J")
    print(f"| {' | '.join((*told, 'there and back mm', 's a pair', 'GiB'))} |\n{'|---' * (len(told) + 3)}|")
    for name, pairs in numbers.items():
        mean = {key: np.mean([row[key] for row in pairs.values()]) for key in next(iter(pairs.values()))}
        spread = np.std([row["dice"] for row in pairs.values()], ddof=1)
        cells = (
            name,
            len(pairs),
            f"{mean['dice']:.4f}",
            f"{spread:.4f}",
            f"{beside[name]:.2g}" if name in beside else "",
            f"{mean['hd95']:.2f}",
            f"{mean['folding']:.4f}",
            f"{mean['sd_log_jacobian']:.3f}",
            f"{mean['there and back']:.2f}",
            f"{mean['seconds']:.1f}",
            f"{max(row['peak_gib'] for row in pairs.values()):.2f}",
        )
        print(f"| {' | '.join(map(str, cells))} |")


# Commands


def table(wanted: argparse.Namespace) -> None:
    begun = time.monotonic()
    train(wanted)
    print(f"trained in {(time.monotonic() - begun) / 60:.1f} min", flush=True)
    images = linked(wanted, wanted.out / "test", wanted.subjects[-wanted.test :])
    pairs = [f"{moving}_to_{fixed}" for moving, fixed in itertools.permutations(wanted.subjects[-wanted.test :], 2)]
    methods = commands(wanted)
    for name, options in methods.items():
        register(wanted, images, name, options, 1)
    for name, options in ANTS.items() if wanted.ants else ():
        by_ants(wanted, name, options, pairs, 1)
    print(f"trained and registered in {(time.monotonic() - begun) / 60:.1f} min\n", flush=True)
    show(wanted, [*methods, *(ANTS if wanted.ants else ())])
    print(f"\nall in {(time.monotonic() - begun) / 60:.1f} min")


def speed(wanted: argparse.Namespace) -> None:
    images = linked(wanted, wanted.out / "two", wanted.subjects[:2])
    one, other = wanted.subjects[:2]
    register(wanted, images, AFFINE, ["--refine", "0"], 2)
    register(wanted, images, "refine 50", ["--refine", "50"], 2)
    for name, options in QUICK.items() if wanted.ants else ():
        by_ants(wanted, name, options, [f"{one}_to_{other}", f"{other}_to_{one}"], 2)
    show(wanted, [AFFINE, "refine 50", *(QUICK if wanted.ants else ())])


def main() -> None:
    from machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "speed"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of what was done; a run goes on from it")
    parser.add_argument("--ants", type=Path, help="a Python with antspyx; without it, its methods are left out")
    parser.add_argument("--minutes", type=float, default=12.0, help="of training, for each network")
    parser.add_argument("--test", type=int, default=4, help="subjects that are not trained on")
    parser.add_argument("--against", default="ANTs SyN", help="method that others are tested against")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    wanted.subjects = sorted({path.name.split("_")[0] for path in wanted.data.glob("*_t1.nii.gz")})
    print(machine(), end="\n\n", flush=True)
    {"table": table, "speed": speed}[wanted.what](wanted)


if __name__ == "__main__":
    main()
