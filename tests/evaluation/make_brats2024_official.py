"""Makes brats2024_official.json: what the official package says of pairs, to be held against our numbers.

The package is not one of ours (AGPL), and asks for older libraries; it is run as a program, in an environment of its
own. There, with NumPy, nibabel and pandas that it brings::

    python -m venv official && official/bin/pip install brats-evaluation==0.0.10 panoptica==2.1.7
    PYTHONPATH=. official/bin/python tests/evaluation/make_brats2024_official.py PAIRS brats2024_official.json

PAIRS is the folder of the 18 pairs whose numbers of 2023 are known (``pair00_ref.nii.gz``, ``pair00_pred.nii.gz``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas
from panoptica import ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching, Panoptica_Evaluator
from panoptica.metrics import Metric

from tests.tumour_factory import REGIONS_2024, TINY, Pair, recoded, tiny_pair

#: Names of the package's settings, and of the command that makes the table.
CONFIGS = {
    "gli": ("gli", "seg"),
    "ped": ("ped", "seg"),
    "men": ("MenPre", "seg"),
    "goat": ("GoAT", "seg"),
    "menrt": ("MenRT", "seg"),
    "met": ("mets", "mets"),
}


def stored_pair(folder: Path, name: str) -> Pair:
    prediction, reference = (nibabel.load(folder / f"{name}_{side}.nii.gz") for side in ("pred", "ref"))
    spacing = tuple(float(size) for size in reference.header.get_zooms())
    return Pair(np.asarray(prediction.dataobj), np.asarray(reference.dataobj), spacing)


def table(challenge: str, pairs: dict[str, Pair]) -> dict[str, dict[str, Any]]:
    """The official table of one challenge: a row for each pair, by the official names of columns."""
    config, command = CONFIGS[challenge]
    bin_folder = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, pair in enumerate(pairs.values()):
            for side, labels in (("pred", pair.prediction), ("ref", pair.reference)):
                (folder / side).mkdir(exist_ok=True)
                image = nibabel.Nifti1Image(recoded(labels, challenge), np.diag([*pair.spacing_mm, 1.0]))
                nibabel.save(image, folder / side / f"BraTS-{number:05d}-000.nii.gz")
        summary, output = folder / "summary.json", folder / "table.csv"
        inputs = ["--ref_path", folder / "ref", "--pred_path", folder / "pred"]
        evaluate = [bin_folder / "brats-evaluate", "--config", config, *inputs, "--summary_json", summary]
        parse = [bin_folder / "brats-parse-metrics", command, "--json_path", summary, "--output_csv_path", output]
        for program in (evaluate, parse):
            subprocess.run(program, check=True)
        rows = pandas.read_csv(output).set_index("subject_id")
    return {
        name: {column: plain(value) for column, value in rows.loc[f"BraTS-{number:05d}-000.nii.gz"].items()}
        for number, name in enumerate(pairs)
    }


def panoptic(pairs: dict[str, Pair]) -> dict[str, dict[str, Any]]:
    """Panoptic quality of everything that is not background."""
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(),
        instance_metrics=[Metric.IOU],
        global_metrics=[],
    )
    found = {}
    for name, pair in pairs.items():
        prediction, reference = ((labels > 0).astype(np.uint8) for labels in (pair.prediction, pair.reference))
        (result,) = evaluator.evaluate(prediction, reference, verbose=False).values()
        found[name] = {"pq": plain(result.pq), "sq": plain(result.sq), "rq": plain(result.rq)}
    return found


def plain(value: Any) -> float | str | None:
    """Null for undefined and a word for infinite, which JSON has no numbers for."""
    number = float(value)
    return None if np.isnan(number) else "inf" if np.isinf(number) else round(number, 10)


def main(folder: Path, output: Path) -> None:
    stored = {f"pair{number:02d}": stored_pair(folder, f"pair{number:02d}") for number in range(18)}
    pairs = stored | {f"tiny{number:02d}": tiny_pair(number) for number in TINY}
    packages = {name: version(name) for name in ("brats-evaluation", "panoptica", "numpy", "scipy")}
    tables = {challenge: table(challenge, pairs) for challenge in REGIONS_2024}
    compact = {
        challenge: {
            "columns": list(next(iter(rows.values()))),
            "rows": {name: list(row.values()) for name, row in rows.items()},
        }
        for challenge, rows in (tables | {"panoptic": panoptic(pairs)}).items()
    }
    head = {
        "made_by": "tests/evaluation/make_brats2024_official.py",
        "date": date.today().isoformat(),
        "packages": packages,
    }
    lines = json.dumps(head | {"tables": compact}).replace('"pair', '\n"pair').replace('"tiny', '\n"tiny')
    output.write_text(lines + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
