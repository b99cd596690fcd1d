"""What it costs to hold predictions against references, beside other programs and against the size of the image.

    python benchmarks/evaluation.py official --script brats_metrics.py
    python benchmarks/evaluation.py nnunet
    python benchmarks/evaluation.py size

Each pair of masks is 240 x 240 x 155: the tumours of ``--brats FOLDER`` (label maps ``*seg.nii.gz`` anywhere in it)
against copies that were shifted and eaten into, and made-up heads with many lesions. Programs are run in turn, round by
round, on one core; what counts is the median of the ratios of their times.

``official`` compares with the lesion-wise script of BraTS 2023, which is not on PyPI: brats_metrics.py out of
github.com/rachitsaluja/BraTS-2023-Metrics. It runs with the pandas, NumPy and surface-distance of today where masks are
cast to bool for the last, and pandas replaces infinite values in the columns that hold numbers.
Times are those of its function and of ours, files and all, without imports; every number has to be the same to 1e-6.

``nnunet`` compares whole commands on 20 pairs, ``nnUNetv2_evaluate_folder`` and ``medmamba evaluate``, of Dice alone
and with HD95, in one worker on one core and in two on two: seconds on the clock, and of processors.

``size`` tells the processor's seconds, and by how much the memory of the process grew at most, the label maps that it
read included, over the bytes of one label map (uint8): for one region of balls with radii of up to 15 voxels, the
columns of BraTS 2023 (metastases), lesions, HD95 and Dice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (240, 240, 155)
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
#: What the official table calls our columns.
COLUMNS = {
    "Num_TP": "tp",
    "Num_FP": "fp",
    "Num_FN": "fn",
    "Sensitivity": "sensitivity",
    "Specificity": "specificity",
    "Legacy_Dice": "legacy_dice",
    "Legacy_HD95": "legacy_hd95",
    "Lesion_Wise_Score_Dice": "dice",
    "Lesion_Wise_Score_HD95": "hd95",
}
GROUP = "brats2023_met"


# Pairs


def phantom(shape: tuple[int, ...], lesions: int, seed: int) -> tuple[Any, Any]:
    """A prediction and its reference: balls in shells, a tenth of them lost, a tenth invented, all others a bit off."""
    rng = np.random.default_rng(seed)
    prediction, reference = (np.zeros(shape, dtype=np.uint8) for _ in range(2))
    largest = min(max(4, min(shape) / 10), 15)
    for number in range(lesions + lesions // 10):
        centre, radius = rng.uniform(0.1, 0.9, 3) * shape, rng.uniform(2, largest)
        if number < lesions:
            ball(reference, centre, radius)
        if number >= lesions // 10:
            ball(prediction, centre + rng.normal(0, 1, 3), radius * rng.uniform(0.9, 1.1))
    return prediction, reference


def ball(labels: Any, centre: Any, radius: float) -> None:
    """Paint oedema, core and enhancing rim around a point."""
    first = np.maximum(np.floor(centre - radius), 0).astype(int)
    last = np.minimum(np.ceil(centre + radius) + 1, labels.shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    away = sum((axis - middle) ** 2 for axis, middle in zip(np.ogrid[box], centre, strict=True))
    for share, value in ((1.0, 2), (0.7, 3), (0.4, 1)):
        labels[box][away <= (share * radius) ** 2] = value


def tumours(folder: Path | None) -> Iterator[tuple[str, Any, Any]]:
    """Real tumours with copies that were shifted and lost a part; 4, which older editions use for rims, becomes 3."""
    import nibabel
    from scipy import ndimage

    for path in sorted(folder.rglob("*seg.nii.gz")) if folder else []:
        stored = np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
        reference = np.zeros(SHAPE, dtype=np.uint8)
        window = tuple(slice(0, min(sizes)) for sizes in zip(stored.shape, SHAPE, strict=True))
        reference[window] = np.where(stored == 4, 3, stored)[window]
        prediction = np.roll(reference, (2, -1, 1), axis=(0, 1, 2))
        prediction[ndimage.binary_dilation(prediction == 0, iterations=1)] = 0
        yield path.parent.name, prediction, reference


def write(folder: Path, brats: Path | None, lesions: Sequence[int] = (1, 5, 20, 60)) -> list[str]:
    """Write every pair below folder/pred and folder/ref, and tell their names; so many lesions have made-up heads."""
    import nibabel

    made = ((f"phantom{count:03d}", *phantom(SHAPE, count, count)) for count in lesions)
    names = []
    for name, *maps in itertools.chain(tumours(brats), made):
        names.append(name)
        for side, labels in zip(("pred", "ref"), maps, strict=True):
            (folder / side).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / side / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "t1c"},
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]},
        "regions_class_order": [2, 1, 3],
        "file_ending": ".nii.gz",
        "numTraining": 0,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return names


# Programs, each in a process of its own; a line of JSON for each line that it reads


def run_official(script: Path) -> None:
    import importlib.util

    import pandas
    import surface_distance

    np.Inf = np.inf  # surface-distance 0.1 asks for it, NumPy 2 has it no more
    cast = types.SimpleNamespace(
        compute_surface_distances=lambda one, other, spacing: surface_distance.compute_surface_distances(
            np.asarray(one).astype(bool), np.asarray(other).astype(bool), spacing
        ),
        compute_robust_hausdorff=surface_distance.compute_robust_hausdorff,
    )
    pandas.DataFrame.replace = replace_numbers
    package = types.ModuleType("brats_2023_metrics")
    package.surface_distance = cast  # type: ignore[attr-defined]
    sys.modules["brats_2023_metrics"] = package
    spec = importlib.util.spec_from_file_location("official", script)
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)

    def measure(prediction: str, reference: str) -> dict[str, float]:
        table = official.get_lesion_wise_results(prediction, reference, "BraTS-MET").set_index("Labels")
        return {f"{region} {COLUMNS[name]}": float(table.loc[region, name]) for region in REGIONS for name in COLUMNS}

    answer(measure)


def replace_numbers(table: Any, old: float, new: float, inplace: bool = False) -> Any:
    """What the script asks of pandas; one of its columns holds arrays, which pandas of today does not compare."""
    result = table if inplace else table.copy()
    for column in table.columns.difference(["predicted_lesion_numbers"]):
        result[column] = [new if value == old else value for value in table[column]]
    return None if inplace else result


def run_ours() -> None:
    from medmamba.evaluation.evaluate import evaluate
    from medmamba.evaluation.matching import Match
    from medmamba.evaluation.metrics import GROUPS
    from medmamba.labels import Label, Labels

    labels = Labels(
        foreground=tuple(Label(name=name, values=values) for name, values in REGIONS.items()), region_order=(2, 1, 3)
    )

    def measure(prediction: str, reference: str) -> dict[str, float]:
        pair = Match(id="pair", reference=Path(reference), prediction=Path(prediction))
        report = evaluate([pair], labels, metrics=GROUPS[GROUP])
        assert report.cases[0].status == "scored", report.cases[0].notes
        return {
            f"{score.label} {name.removeprefix(f'{GROUP}_')}": value
            for score in report.cases[0].scores
            for name, value in zip(report.metrics, score.values, strict=True)
        }

    answer(measure)


def answer(measure: Any) -> None:
    for line in sys.stdin:
        prediction, reference = json.loads(line)
        started = time.perf_counter()
        values = measure(prediction, reference)
        print(json.dumps({"seconds": time.perf_counter() - started, "values": values}), flush=True)


class Program:
    """One of both, waiting for pairs."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            ["taskset", "-c", "0", sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=one_core(),
        )

    def measure(self, prediction: Path, reference: Path) -> dict[str, Any]:
        """Seconds and values of a pair."""
        self.process.stdin.write(json.dumps([str(prediction), str(reference)]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """No more pairs."""
        self.process.stdin.close()
        self.process.wait()


def one_core() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


# Comparisons


def official(script: Path, brats: Path | None, rounds: int) -> None:
    print("| pair | official s | ours s | ratio | largest difference |\n|---|---|---|---|---|")
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = write(folder, brats)
        theirs, ours = Program("run_official", str(script)), Program("run_ours")
        ours.measure(*(folder / side / f"{names[0]}.nii.gz" for side in ("pred", "ref")))  # what is imported late
        for pair in names * rounds:
            files = [folder / side / f"{pair}.nii.gz" for side in ("pred", "ref")]
            one, other = theirs.measure(*files), ours.measure(*files)
            apart = max(abs(one["values"][key] - other["values"][key]) for key in one["values"])
            assert apart <= 1e-6, f"{pair}: numbers differ by {apart}"
            ratios.append(other["seconds"] / one["seconds"])
            print(
                f"| {pair} | {one['seconds']:.2f} | {other['seconds']:.2f} | {ratios[-1]:.3f} | {apart:.1e} |",
                flush=True,
            )
        for program in (theirs, ours):
            program.close()
    print(f"\nMedian ratio {statistics.median(ratios):.3f}, largest {max(ratios):.3f}.")


def nnunet(brats: Path | None, rounds: int) -> None:
    print("| round | metrics of ours | workers | wall s | processor s | ratio of wall | of processor |")
    print("|---|---|---|---|---|---|---|")
    ratios: dict[tuple[str, int], list[Any]] = {}
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = write(folder, brats, range(1, 21 - len(list(tumours(brats)))))
        plans = {"image_reader_writer": "SimpleITKIO"}
        (folder / "plans.json").write_text(json.dumps(plans))
        pred, ref, described = folder / "pred", folder / "ref", folder / "dataset.json"
        theirs = [
            bin_folder / "nnUNetv2_evaluate_folder",
            ref,
            pred,
            "-djfile",
            described,
            "-pfile",
            folder / "plans.json",
        ]
        ours = [bin_folder / "medmamba", "evaluate", pred, ref, "--labels", described, "--output", folder / "report"]
        for number, workers in itertools.product(range(rounds), (1, 2)):
            one = timed([*theirs, "-np", str(workers)], workers)
            print(f"| {number + 1} | nnU-Net | {workers} | {one[0]:.2f} | {one[1]:.2f} | 1 | 1 |", flush=True)
            for metric in ("standard", "dice"):
                other = timed([*ours, "--metric", metric, "--workers", str(workers)], workers)
                ratio = other / one
                ratios.setdefault((metric, workers), []).append(ratio)
                print(
                    f"| {number + 1} | {metric} | {workers} | {other[0]:.2f} | {other[1]:.2f} | {ratio[0]:.3f} | "
                    f"{ratio[1]:.3f} |",
                    flush=True,
                )
        same_dice(
            json.loads((pred / "summary.json").read_text()), json.loads((folder / "report" / "report.json").read_text())
        )
    print(f"\n{len(names)} pairs; ratios of wall and of the processor's time:\n")
    for (metric, workers), values in ratios.items():
        told = [f"median {np.median(kind):.3f}, largest {max(kind):.3f}" for kind in np.transpose(values)]
        print(f"- {metric}, {workers} worker(s): {'; '.join(told)}")


def timed(command: list[Any], cores: int) -> Any:
    """Seconds on the clock, and of processors, of a command on so many cores."""
    started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["taskset", "-c", f"0-{cores - 1}", *command], check=True, env=one_core(), capture_output=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return np.array([time.perf_counter() - started, cpu])


def same_dice(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    mean = {entry["label"]: entry["mean"] for entry in ours["summary"] if entry["metric"] == "dice"}
    for name, values in (("whole", "(1, 2, 3)"), ("core", "(1, 3)"), ("enhancing", "3")):
        found = theirs["mean"].get(values) or theirs["mean"][f"({values},)"]
        assert abs(found["Dice"] - mean[name]) < 1e-9, f"Dice of {name}: {found['Dice']} and {mean[name]}"


def size(sizes: list[int], counts: list[int]) -> None:
    print("| voxels | lesions | seconds | ns a voxel | memory over one label map |\n|---|---|---|---|---|")
    for edge in sizes:
        for count in counts:
            arguments = [sys.executable, __file__, "run_size", str(edge), str(count)]
            found = json.loads(subprocess.run(arguments, check=True, env=one_core(), capture_output=True).stdout)
            voxels = edge**3
            print(
                f"| {edge}^3 | {count} | {found['seconds']:.2f} | {found['seconds'] / voxels * 1e9:.0f} | "
                f"{found['bytes'] / voxels:.1f} |",
                flush=True,
            )


def run_size(edge: int, count: int) -> None:
    from medmamba.evaluation.evaluate import evaluate
    from medmamba.evaluation.matching import Match
    from medmamba.labels import Label, Labels

    labels = Labels(foreground=(Label(name="whole", values=(1, 2, 3)),), region_order=(1,))

    def measured(shape: int, folder: Path) -> float:
        started = time.process_time()
        pair = Match(id="pair", reference=folder / f"ref{shape}.nii", prediction=folder / f"pred{shape}.nii")
        report = evaluate([pair], labels, metrics=("dice", "hd95", "brats2023_met_dice", "lesion_f1"))
        assert report.cases[0].status == "scored", report.cases[0].notes
        return time.process_time() - started

    with tempfile.TemporaryDirectory() as name:
        for shape, lesions in ((24, 4), (edge, count)):  # in a process of its own, which gives all memory back
            subprocess.run([sys.executable, __file__, "write_phantom", name, str(shape), str(lesions)], check=True)
        measured(24, Path(name))  # what is imported late: two of its lesions lie apart, so that all code is come by
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = measured(edge, Path(name))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": seconds, "bytes": grown * 1024}))


def write_phantom(folder: Path, edge: int, count: int) -> None:
    import nibabel

    for side, labels in zip(("pred", "ref"), phantom((edge,) * 3, count, count), strict=True):
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / f"{side}{edge}.nii")


def main() -> None:
    inner = {
        "run_official": lambda script: run_official(Path(script)),
        "run_ours": run_ours,
        "run_size": lambda edge, count: run_size(int(edge), int(count)),
        "write_phantom": lambda folder, edge, count: write_phantom(Path(folder), int(edge), int(count)),
    }
    if len(sys.argv) > 1 and sys.argv[1] in inner:
        inner[sys.argv[1]](*sys.argv[2:])
        return
    from machine import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("official", "nnunet", "size"))
    parser.add_argument("--script", type=Path, help="brats_metrics.py of BraTS 2023")
    parser.add_argument("--brats", type=Path, help="folder of BraTS cases")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--lesions", type=int, nargs="+", default=[1, 10, 100])
    wanted = parser.parse_args()
    print(machine(), end="\n\n")
    if wanted.what == "official":
        official(wanted.script, wanted.brats, wanted.rounds)
    elif wanted.what == "nnunet":
        nnunet(wanted.brats, wanted.rounds)
    else:
        size(wanted.sizes, wanted.lesions)


if __name__ == "__main__":
    main()
