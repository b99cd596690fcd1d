"""Damaged DICOM is refused in words: seeded damage to small sound files, listed and read as commands do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medmamba import io
from medmamba.errors import MedMambaError
from medmamba.io.dicom.inputs import Wanted, cases_of
from medmamba.io.dicom.media import opened
from medmamba.io.dicom.series import Choice, explore
from tests import dicom_damage
from tests import dicom_factory as factory
from tests.cli.remedies import run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

HANGS_AFTER_S = 10
#: Exit codes of foreseeable errors: usage, data, machine.
FORESEEN = (0, 2, 3, 4)
EVERY_DAY, EXHAUSTIVE = 40, 500


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with an export each, of a few small files."""
    found = dicom_damage.exports(tmp_path_factory.mktemp("sound"))
    run("scan", found["ct"])  # what commands import is no part of the time that they get
    return found


CHOICES = (Choice(), Choice(uneven="resample", tilt="resample", phase="1", duplicates="first"))


def read_all(export: Path, place: Path, choice: Choice) -> None:
    """What `predict` does before its network: find the series, choose, note the choice, read voxels."""
    with opened(export) as files:
        found = explore(files)
        wanted = Wanted(channels=("image",), series=tuple(each.id for each in found.series), choice=choice)
        for case in cases_of(found, wanted, export, place):
            for image in case.images:
                try:
                    volume = io.read(image)
                except (MedMambaError, OSError) as error:
                    check_words(error)
                else:
                    assert np.isfinite(volume.geometry.affine).all()
                    assert min(volume.geometry.spacing_mm) > 0


def check_words(error: Exception) -> None:
    words = str(error)
    assert words
    assert isinstance(error, MedMambaError) or error.filename, f"an OSError that names no file: {error!r}"  # type: ignore[attr-defined]
    assert not [secret for secret in factory.SECRETS if secret in words], words


def survive(sources: dict[str, Path], place: Path, seed: int) -> None:
    export, what = dicom_damage.damaged(sources, place, seed)
    try:
        with dicom_damage.within(HANGS_AFTER_S):
            code, said = run("scan", export, "--json")
        assert code in FORESEEN, f"exit code {code}: {said[-2000:]}"
        assert "Traceback" not in said
        assert not [secret for secret in factory.SECRETS if secret in said], said
        for number, choice in enumerate(CHOICES):
            out = place / f"out{number}"
            try:
                with dicom_damage.within(HANGS_AFTER_S):
                    read_all(export, out, choice)
            except (MedMambaError, OSError) as error:
                check_words(error)
            for file in out.rglob("*"):
                if file.is_file():
                    json.loads(file.read_text())
    except (Exception, dicom_damage.Hang) as error:
        error.add_note(what)
        raise


#: A slope of 1e308.
LARGE_NUMBERS = 385


@pytest.mark.parametrize("seed", [*range(EVERY_DAY), LARGE_NUMBERS])
def test_damage_is_told_in_words(sources: dict[str, Path], tmp_path: Path, seed: int) -> None:
    survive(sources, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(EVERY_DAY, EXHAUSTIVE, 20))
def test_much_damage_is_told_in_words(sources: dict[str, Path], tmp_path: Path, start: int) -> None:
    for seed in range(start, start + 20):
        place = tmp_path / str(seed)
        place.mkdir()
        survive(sources, place, seed)
        shutil.rmtree(place)


def test_what_is_damaged_here_is_sound_before(sources: dict[str, Path], tmp_path: Path) -> None:
    """Else every refusal would be one of the factory's mistakes."""
    readable = 0
    for name, folder in sources.items():
        target = next(folder.glob("*.zip"), folder)
        with opened(target) as files:
            found = explore(files)
            wanted = Wanted(
                channels=("image",), series=tuple(s.id for s in found.series if s.planes), choice=CHOICES[1]
            )
            for case in cases_of(found, wanted, target, tmp_path / name):
                io.read(case.images[0])
                readable += 1
    assert readable >= len(sources)
