"""What is finished stays, what would come out otherwise is made again, and what is somebody else's is kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmamba import files, io
from medmamba.case import Case
from medmamba.errors import UsageError
from medmamba.files import OutputError, is_full
from medmamba.io.formats.itk import NRRD
from medmamba.io.manifest import MANIFEST, Maker, Manifest
from medmamba.labels import Labels
from medmamba.prediction import folder as segmentations
from medmamba.prediction.folder import ForeignFileError, Secret, SegmentationFolder, Writer
from medmamba.volume import Volume
from tests.data_factory import make_case

MAKER = Maker(plan="p", weights=("w",), precision="fp32", mirror=True)
LABELS = Labels.of_values((1, 2))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A scan on disk."""
    return scan(tmp_path / "scans" / "a.nii.gz", 0)


def scan(path: Path, seed: int) -> Case:
    path.parent.mkdir(exist_ok=True)
    io.write(make_case(seed)[0], path)
    return Case(id=path.name.split(".")[0], images=(path,))


def answer(value: int = 1) -> Volume:
    _, label = make_case(0)
    return label.with_array(np.full_like(label.array, value))


def opened(tmp_path: Path, *cases: Case, maker: Maker = MAKER, endings: Sequence[str] = ()) -> SegmentationFolder:
    return SegmentationFolder(tmp_path / "out", cases, maker, LABELS, endings=endings)


def test_same_command_finds_its_cases_finished(case: Case, tmp_path: Path) -> None:
    folder = opened(tmp_path, case)
    assert folder.standing(case).kind == "absent"
    folder.store(case, answer())
    again = opened(tmp_path, case).standing(case)
    assert (again.kind, again.reason) == ("finished", "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights": ("other",)}, "the weights changed"),
        ({"weights": ("w", "w2")}, "the weights changed"),
        ({"precision": "bf16"}, "the precision changed"),
        ({"mirror": False}, "mirroring changed"),
        ({"plan": "q", "mirror": False}, "the plan and mirroring changed"),
    ],
)
def test_what_another_maker_left_is_outdated(change: dict[str, object], named: str, case: Case, tmp_path: Path) -> None:
    opened(tmp_path, case).store(case, answer())
    other = opened(tmp_path, case, maker=replace(MAKER, **change))  # type: ignore[arg-type]
    assert (other.standing(case).kind, other.standing(case).reason) == ("outdated", named)
    other.store(case, answer(2))
    assert other.standing(case).kind == "finished"
    assert opened(tmp_path, case).standing(case).kind == "outdated"


def test_exchanged_scan_is_noticed_by_its_content_not_its_size_or_date(case: Case, tmp_path: Path) -> None:
    path = case.images[0]
    plain = Case(id="a", images=(path.with_name("a.nii"),))
    io.write(make_case(0)[0], plain.images[0])
    before = plain.images[0].stat()
    folder = opened(tmp_path, plain)
    folder.store(plain, answer())
    io.write(make_case(1)[0], plain.images[0])
    os.utime(plain.images[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert plain.images[0].stat().st_size == before.st_size
    assert (folder.standing(plain).kind, folder.standing(plain).reason) == ("outdated", "the image changed")


def test_scan_exchanged_while_it_was_segmented_is_segmented_again(case: Case, tmp_path: Path) -> None:
    folder = opened(tmp_path, case)
    before = folder.standing(case).images_digest
    io.write(make_case(5)[0], case.images[0])
    folder.store(case, answer(), images_digest=before)
    assert (folder.standing(case).kind, folder.standing(case).reason) == ("outdated", "the image changed")
    folder.store(case, answer(), images_digest=folder.standing(case).images_digest)
    assert folder.standing(case).kind == "finished"


def test_voxels_beside_a_header_belong_to_the_scan(tmp_path: Path) -> None:
    case = scan(tmp_path / "scans" / "a.mhd", 0)
    folder = opened(tmp_path, case)
    folder.store(case, answer())
    assert folder.standing(case).kind == "finished"
    header = case.images[0].read_bytes()
    io.write(make_case(1)[0], case.images[0])
    case.images[0].write_bytes(header)
    assert folder.standing(case).kind == "outdated"


def test_moved_scan_is_the_same_and_another_of_its_name_is_not(case: Case, tmp_path: Path) -> None:
    folder = opened(tmp_path, case)
    folder.store(case, answer())
    shutil.copytree(tmp_path / "scans", tmp_path / "moved")
    moved = Case(id="a", images=(tmp_path / "moved" / "a.nii.gz",))
    assert folder.standing(moved).kind == "finished"
    other = scan(tmp_path / "other" / "a.nii.gz", 5)
    standing = folder.standing(other)
    assert standing.kind == "foreign"
    assert str(case.images[0]) in standing.reason
    with pytest.raises(ForeignFileError, match="segments another image"):
        folder.store(other, answer(2))
    assert (io.read_label(folder.path(case)).array == 1).all()


def test_file_from_elsewhere_is_kept_unless_told_otherwise(case: Case, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "a.nii.gz"
    io.write(answer(2), target)
    folder = opened(tmp_path, case)
    assert folder.standing(case).kind == "foreign"
    assert str(target) in folder.standing(case).reason
    assert "--overwrite" in folder.standing(case).reason
    with pytest.raises(ForeignFileError):
        folder.store(case, answer())
    assert (io.read_label(target).array == 2).all()
    folder.store(case, answer(), overwrite=True)
    assert (io.read_label(target).array == 1).all()
    assert folder.standing(case).kind == "finished"
    # What was replaced is no earlier work of ours: brought back, it is kept again.
    io.write(answer(2), target)
    assert folder.standing(case).kind == "foreign"


def test_edited_segmentation_is_kept_and_a_damaged_one_is_not(case: Case, tmp_path: Path) -> None:
    folder = opened(tmp_path, case)
    folder.store(case, answer())
    target = folder.path(case)
    whole = target.read_bytes()
    io.write(answer(2), target)
    standing = folder.standing(case)
    assert standing.kind == "foreign"
    assert "was edited" in standing.reason
    for damaged in (whole[:-20], b""):
        target.write_bytes(damaged)
        assert (folder.standing(case).kind, folder.standing(case).reason) == ("outdated", "the file was damaged")


def test_what_cannot_be_a_segmentation_is_never_replaced(case: Case, tmp_path: Path) -> None:
    folder = opened(tmp_path, case)
    folder.store(case, answer())
    target, scan_ = folder.path(case), make_case(0)[0]
    for image in (scan_, scan_.with_array(scan_.array.round().astype(np.int16))):  # as of an MR, and of a CT
        io.write(image, target)
        before = target.read_bytes()
        assert folder.standing(case).kind == "image"
        with pytest.raises(ForeignFileError, match=r"a\.nii\.gz was edited .* and (is no segmentation|holds values)"):
            folder.store(case, answer(), overwrite=True)
        assert target.read_bytes() == before


def test_death_between_record_and_file_leaves_work_of_ours(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened(tmp_path, case)
    real = os.replace

    def dies(source: object, target: Path) -> None:
        if Path(target).name == "a.nii.gz" and Path(target).parent.name == "out":
            raise KeyboardInterrupt
        real(source, target)  # type: ignore[call-overload]

    monkeypatch.setattr(segmentations.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        folder.store(case, answer())
    assert folder.standing(case).kind == "absent"
    monkeypatch.undo()
    folder.store(case, answer())
    other = opened(tmp_path, case, maker=replace(MAKER, weights=("x",)))
    monkeypatch.setattr(segmentations.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        other.store(case, answer(2))
    monkeypatch.undo()
    assert "stopped before it replaced" in other.standing(case).reason
    assert other.standing(case).kind == "outdated"
    other.store(case, answer(2))
    assert other.standing(case).kind == "finished"


def test_leftovers_of_a_killed_process_are_cleared(case: Case, tmp_path: Path) -> None:
    left = tmp_path / "out" / ".writing.abc"
    left.mkdir(parents=True)
    (left / "a.nii.gz").write_bytes(b"half")
    opened(tmp_path, case)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", MANIFEST]


def test_full_disk_keeps_file_and_record_as_they_were(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path, case).store(case, answer())
    other = opened(tmp_path, case, maker=replace(MAKER, weights=("x",)))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out" / ".writing.x" / "a.nii.gz"))

    monkeypatch.setattr(segmentations.io, "write", full)
    with pytest.raises(OSError, match="No space") as caught:
        other.store(case, answer(2))
    assert is_full(caught.value)
    assert caught.value.filename == str(tmp_path / "out" / "a.nii.gz")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_two_processes_at_once_record_all_their_cases(tmp_path: Path) -> None:
    cases = [scan(tmp_path / "scans" / f"c{number}.nii.gz", number) for number in range(8)]

    def work(mine: list[Case]) -> None:
        folder = opened(tmp_path, *mine)
        for case in mine:
            folder.store(case, answer())

    threads = [threading.Thread(target=work, args=(cases[start::2],)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.cases == tuple(f"c{number}" for number in range(8))
    assert sorted(manifest.made) == [f"c{number}.nii.gz" for number in range(8)]
    assert {opened(tmp_path, *cases).standing(case).kind for case in cases} == {"finished"}


def test_images_and_references_are_never_the_target(case: Case, tmp_path: Path) -> None:
    before = case.images[0].read_bytes()
    with pytest.raises(OutputError, match="is an input"):
        SegmentationFolder(tmp_path / "scans", [case], MAKER, LABELS, endings=(".nii.gz",))
    labelled = replace(case, label=tmp_path / "labels" / "a.nii.gz")
    (tmp_path / "labels").mkdir()
    io.write(answer(), tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(OutputError, match="is an input"):
        SegmentationFolder(tmp_path / "labels", [labelled], MAKER, LABELS)
    assert case.images[0].read_bytes() == before
    assert [path.name for path in (tmp_path / "scans").iterdir()] == ["a.nii.gz"]
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["a.nii.gz"]


def test_segmentation_has_the_format_of_its_first_image(tmp_path: Path) -> None:
    cases = [scan(tmp_path / "scans" / name, 0) for name in ("a.nrrd", "b.nii.gz", "c.mha", "d.nii", "e.NRRD")]
    cases[1] = replace(cases[1], images=(*cases[1].images, *cases[0].images))
    folder = opened(tmp_path, *cases)
    names = [folder.path(case).name for case in cases]
    assert names == ["a.nrrd", "b.nii.gz", "c.mha", "d.nii", "e.nrrd"]
    for case in cases:
        folder.store(case, answer())
        assert folder.standing(case).kind == "finished"
        assert io.read_geometry(folder.path(case)).same_grid(io.read_geometry(case.images[0]))


def test_format_that_is_asked_for_is_that_of_all_and_must_be_known(case: Case, tmp_path: Path) -> None:
    assert opened(tmp_path, case, endings=(".nrrd",)).path(case).name == "a.nrrd"
    with pytest.raises(UsageError, match=r"written as .*\.nii\.gz.*\.nrrd.*, got '\.png'"):
        opened(tmp_path, case, endings=(".png",))


def test_images_of_a_format_that_is_not_written_become_files_like_those_of_the_plan(tmp_path: Path) -> None:
    slices = Case(id="a", images=(tmp_path / "slices",))
    folder = SegmentationFolder(tmp_path / "out", [slices], MAKER, LABELS, otherwise=".mha")
    assert folder.path(slices).name == "a.mha"


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "first-version"])
def test_folder_that_was_begun_in_another_format_goes_on(
    recorded: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = scan(tmp_path / "scans" / "a.nrrd", 0), scan(tmp_path / "scans" / "b.nrrd", 1)
    other = scan(tmp_path / "scans" / "c.mha", 2)
    opened(tmp_path, first, endings=(".nii.gz",)).store(first, answer())
    if not recorded:
        (tmp_path / "out" / MANIFEST).write_text(json.dumps({"cases": ["a"], "plan": "p", "medmamba": "0.1.0"}))
    folder = opened(tmp_path, first, second, other)
    assert folder.standing(first).kind == "finished"
    assert [folder.path(case).name for case in (first, second, other)] == ["a.nii.gz", "b.nii.gz", "c.mha"]
    assert "was begun with .nii.gz for images in .nrrd" in caplog.text
    # Two segmentations of one case could not be told apart.
    with pytest.raises(OutputError, match=r"another format: a\.nii\.gz; choose another folder"):
        opened(tmp_path, first, endings=(".nrrd",))
    (tmp_path / "out" / "a.nii.gz").unlink()
    assert opened(tmp_path, first).path(first).name == "a.nrrd"


def test_two_cases_of_one_name_are_refused_before_anything_is_written(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two cases are called a"):
        opened(tmp_path, case, scan(tmp_path / "other" / "a.nii.gz", 1))
    assert not (tmp_path / "out").exists()


def test_folder_of_the_first_version_goes_on(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    io.write(answer(), out / "a.nii.gz")
    (out / MANIFEST).write_text(json.dumps({"cases": ["a", "gone"], "plan": "p", "medmamba": "0.1.0"}))
    stranger = scan(tmp_path / "scans" / "b.nii.gz", 1)
    io.write(answer(), out / "b.nii.gz")
    folder = opened(tmp_path, case, stranger)
    assert folder.standing(case).kind == "finished"
    assert folder.standing(stranger).kind == "foreign"  # never asked for
    other = opened(tmp_path, case, maker=replace(MAKER, plan="q")).standing(case)
    assert (other.kind, "another plan" in other.reason) == ("foreign", True)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["cases"] == ["a", "b", "gone"]  # which an evaluation of the first version reads as well
    (out / "a.nii.gz").write_bytes(b"half")
    assert folder.standing(case).kind == "outdated"
    folder.store(case, answer())
    assert folder.standing(case).reason == ""


def test_damaged_record_says_what_can_be_done(case: Case, tmp_path: Path) -> None:
    opened(tmp_path, case).store(case, answer())
    (tmp_path / "out" / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"not valid JSON.*choose another folder, or rename the file"):
        opened(tmp_path, case)


def test_record_of_another_program_is_not_overwritten(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for text in ('{"score": 0.9}', "[1, 2]", "{"):
        (out / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=MANIFEST):
            opened(tmp_path, case)
        assert (out / MANIFEST).read_text() == text


def test_segmentations_among_the_scans_are_no_scans(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    scan(folder / "n_0000.nii.gz", 0)
    (case,) = io.find_inputs(folder, 1)
    SegmentationFolder(folder, [case], MAKER, LABELS, endings=(".nii.gz",)).store(case, answer())
    assert io.find_inputs(folder, 1) == [case]
    # Also when it was edited, and in a folder of the first version, which listed only ids.
    io.write(answer(2), folder / "n.nii.gz")
    assert io.find_inputs(folder, 1) == [case]
    (folder / MANIFEST).write_text(json.dumps({"cases": ["n"], "plan": "p", "medmamba": "0.1.0"}))
    assert io.find_inputs(folder, 1) == [case]
    # A scan without a number that the first version took for its own work is a scan.
    scan(folder / "ct.nii.gz", 1)
    (folder / "n.nii.gz").unlink()
    (folder / "n_0000.nii.gz").unlink()
    (folder / MANIFEST).write_text(json.dumps({"cases": ["ct"], "plan": "p", "medmamba": "0.1.0"}))
    assert [case.id for case in io.find_inputs(folder, 1)] == ["ct"]


def test_segmentations_in_another_format_beside_their_scans_are_no_scans(tmp_path: Path) -> None:
    case = scan(tmp_path / "scans" / "a.nrrd", 0)
    SegmentationFolder(tmp_path / "scans", [case], MAKER, LABELS, endings=(".nii.gz",)).store(case, answer())
    assert io.find_inputs(tmp_path / "scans", 1) == [case]
    case.images[0].unlink()
    with pytest.raises(ValueError, match="no images but segmentations"):
        io.find_inputs(tmp_path / "scans", 1)


@pytest.mark.parametrize("done", range(4))
@pytest.mark.parametrize("earlier", [False, True])
def test_kill_between_the_files_of_a_case_leaves_it_unfinished(
    earlier: bool, done: int, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endings = (".nii.gz", ".nrrd", ".mha")
    if earlier:
        opened(tmp_path, case, maker=replace(MAKER, weights=("old",)), endings=endings).store(case, answer(2))
    take_place, count = files._take_place, iter(range(10))

    def or_be_killed(new: Path, target: Path) -> None:
        if target.parent.name == "out" and next(count) == done:
            os._exit(9)
        take_place(new, target)

    monkeypatch.setattr(files, "_take_place", or_be_killed)
    if (child := os.fork()) == 0:
        try:
            opened(tmp_path, case, endings=endings).store(case, answer())
            os._exit(0)
        finally:  # an error as well must not go on with the tests
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if done < len(endings) else 0)
    monkeypatch.undo()
    folder = opened(tmp_path, case, endings=endings)
    if done == len(endings):
        assert folder.standing(case).kind == "finished"
        return
    assert folder.standing(case).kind == ("outdated" if earlier else "absent")
    folder.store(case, answer())
    assert folder.standing(case).kind == "finished"
    assert all((io.read_label(path).array == 1).all() for path in folder.paths(case))
    assert not list(folder.folder.glob(f"{files.WRITING}*"))


def test_secret_is_kept_and_another_one_refused(case: Case, tmp_path: Path) -> None:
    def begun(text: str) -> None:
        writer = Writer(format=NRRD, secret=Secret(path=tmp_path / "out" / ".secret", text=text))
        SegmentationFolder(tmp_path / "out", [case], MAKER, LABELS, endings=[".nrrd"], writers={".nrrd": writer})

    begun("one")
    begun("one")
    with pytest.raises(OutputError, match="was just written by another command; repeat this one"):
        begun("another")
    assert (tmp_path / "out" / ".secret").read_text() == "one"
