"""`predict` on damaged exports: refused in words, in time, and nothing half written; `test_fuzz` has what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from medmamba import io
from medmamba.files import WRITING
from tests import dicom_damage
from tests import dicom_factory as factory
from tests.cli.remedies import run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

HANGS_AFTER_S = 10
GO_ON = ("--uneven", "resample", "--tilt", "resample", "--phase", "1", "--duplicates", "first")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, trained: tuple[Path, str]) -> dict[str, Path]:
    found = dicom_damage.exports(tmp_path_factory.mktemp("sound"))
    # What commands import and compile is no part of the time that they get.
    code, said = run("predict", "-i", found["ct"], "-o", found["ct"].parent.parent / "warm", "-m", trained[0])
    assert code == 0, said
    return found


def predict(sources: dict[str, Path], run_folder: Path, place: Path, seed: int) -> None:
    export, what = dicom_damage.damaged(sources, place, seed)
    out = place / "out"
    more = GO_ON if seed % 2 else ()
    with dicom_damage.within(HANGS_AFTER_S):
        code, said = run("predict", "-i", export, "-o", out, "-m", run_folder, "--device", "cpu", *more)
    assert code in (0, 2, 3, 4), f"{what}: {said}"
    assert not [secret for secret in factory.SECRETS if secret in said], what
    masks = [file for ending in (".nii.gz", ".seg.dcm") for file in out.rglob(f"*{ending}") if file.is_file()]
    for mask in masks:
        io.read(mask)
    assert masks or code != 0, f"{what}: {said}"
    assert not [file for file in out.rglob("*") if file.suffix == ".tmp" or file.name.startswith(WRITING)], what


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(500, 548))
def test_predict_tells_damage_in_words(
    sources: dict[str, Path], trained: tuple[Path, str], tmp_path: Path, seed: int
) -> None:
    predict(sources, trained[0], tmp_path, seed)
