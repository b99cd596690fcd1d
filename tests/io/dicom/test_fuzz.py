"""Damaged DICOM is refused in words: seeded damage to small sound files, listed and read as commands do."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from medmamba.io.dicom.inputs import Wanted, cases_of
from medmamba.io.dicom.media import opened
from medmamba.io.dicom.series import Choice, explore
from pydicom import uid

from medmamba import io
from medmamba.errors import MedMambaError
from tests import dicom_factory as factory
from tests.cli.remedies import run
from tests.dicom_damage import MUTATIONS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

HANGS_AFTER_S = 10
#: Exit codes of foreseeable errors: usage, data, machine.
FORESEEN = (0, 2, 3, 4)
EVERY_DAY, EXHAUSTIVE = 40, 500


class Hang(BaseException):
    """Nobody catches this."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with an export each, of a few small files."""
    root = tmp_path_factory.mktemp("sound")
    two = [factory.HEAD, factory.RAMP]
    small = {"slices": 3, "shape": (12, 16)}
    factory.series(root / "ct", **small)
    factory.series(root / "implicit", syntax=uid.ImplicitVRLittleEndian, **small)
    factory.series(root / "rle", syntax=uid.RLELossless, **small)
    factory.series(root / "jpeg_ls", syntax=uid.JPEGLSLossless, **small)
    factory.series(root / "deflated", syntax=uid.DeflatedExplicitVRLittleEndian, **small)
    factory.series(root / "echoes", two, told_by="echo", modality="MR", **small)
    factory.series(root / "enhanced", enhanced=True, **small)
    factory.series(root / "enhanced_b", two, told_by="b_value", modality="MR", enhanced=True, **small)
    factory.series(root / "tilt", tilt_deg=15, heights_mm=(0, 1, 3), shape=(12, 16))
    mixed = factory.series(root / "mixed", **small)
    factory.localizer(root / "mixed", mixed)
    factory.ultrasound(root / "mixed" / "us.dcm", frames=2)
    plain = factory.series(root / "for_cd", **small)
    factory.medium(root / "cd", plain.files)
    (root / "zip").mkdir()
    factory.zipped(plain.folder, root / "zip" / "export.zip")
    shutil.rmtree(plain.folder)
    return {folder.name: folder for folder in sorted(root.iterdir())}


CHOICES = (Choice(), Choice(uneven="resample", tilt="resample", phase="1", duplicates="first"))


def damaged(sources: dict[str, Path], place: Path, seed: int) -> tuple[Path, str]:
    """An export with damage in one of its files, or two, and what was done."""
    rng = np.random.default_rng([20261128, seed])
    name = list(sources)[seed % len(sources)]
    mutate = MUTATIONS[(seed + seed // len(sources)) % len(MUTATIONS)]
    export = place / "export"
    shutil.copytree(sources[name], export)
    files = sorted(file for file in export.rglob("*") if file.is_file())
    for file in rng.choice(len(files), min(len(files), int(rng.integers(1, 3))), replace=False):
        mutate(files[file], rng)
    [target] = list(export.glob("*.zip")) or [export / "DICOMDIR" if rng.random() < 0.5 and name == "cd" else export]
    return target, f"{mutate.__name__} of {name}, seed {seed}"


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
    export, what = damaged(sources, place, seed)
    try:
        with within(HANGS_AFTER_S):
            code, said = run("scan", export, "--json")
        assert code in FORESEEN, f"exit code {code}: {said[-2000:]}"
        assert "Traceback" not in said
        assert not [secret for secret in factory.SECRETS if secret in said], said
        for number, choice in enumerate(CHOICES):
            out = place / f"out{number}"
            try:
                with within(HANGS_AFTER_S):
                    read_all(export, out, choice)
            except (MedMambaError, OSError) as error:
                check_words(error)
            for file in out.rglob("*"):
                if file.is_file():
                    json.loads(file.read_text())
    except (Exception, Hang) as error:
        error.add_note(what)
        raise


@pytest.mark.parametrize("seed", range(EVERY_DAY))
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
