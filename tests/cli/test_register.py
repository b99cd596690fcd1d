"""``medmamba register``: pairs from files, folders and tables, DICOM, a trained model, and words for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from medmamba import io
from medmamba.registration.records import PairRecord
from medmamba.volume import Geometry, Volume
from tests import dicom_factory as factory
from tests.cli.remedies import run, tells
from tests.pairs_factory import subject, write_modalities, write_shifted, write_subjects

QUICK = ("--affine", "centres", "--refine", "0")


def test_two_images_are_registered_without_any_training(tmp_path: Path) -> None:
    write_shifted(tmp_path / "in", 1, shift=1.0)
    given = {
        name: tmp_path / "in" / f"{name}.nii.gz" for name in ("fixed0_t1", "moving0_t1", "fixed0_seg", "moving0_seg")
    }
    code, said = run(
        "register", "--fixed", given["fixed0_t1"], "--moving", given["moving0_t1"], "-o", tmp_path / "out",
        "--fixed-label", given["fixed0_seg"], "--moving-label", given["moving0_seg"],
    )  # fmt: skip
    assert code == 0, said
    assert "similarity: lncc: T1 on both sides" in said
    assert "moving0_t1_to_fixed0_t1: Dice of 2 structures 0." in said
    assert "% folded" in said
    assert "1 registered, 0 finished earlier, 0 failed" in said
    record = PairRecord.load(tmp_path / "out" / "moving0_t1_to_fixed0_t1")
    assert record.overlap is not None
    assert np.mean(list(record.overlap.after.values())) > np.mean(list(record.overlap.before.values()))
    again = run("register", "--fixed", given["fixed0_t1"], "--moving", given["moving0_t1"], "-o", tmp_path / "out")
    assert "registered again, because an image or what belongs to it changed" in again[1]


def test_folders_and_tables_make_many_pairs(tmp_path: Path) -> None:
    brains = write_subjects(tmp_path / "brains", 3)
    code, said = run("register", "--fixed", brains, "--atlas", "s1", "-o", tmp_path / "atlas", *QUICK)
    assert code == 0, said
    assert "s0_to_s1: Dice of 2 structures" in said
    assert "2 registered" in said
    table = write_modalities(tmp_path / "pairs", 2)
    (tmp_path / "pairs" / "mr" / "p1.nii.gz").write_bytes(b"")
    code, said = run("register", "--pairs", table, "-o", tmp_path / "table", *QUICK)
    assert code == 3
    assert "1 registered, 0 finished earlier, 1 failed" in said
    assert "the file is empty" in said
    noted = json.loads((tmp_path / "table" / "registration.json").read_text())["pairs"]
    assert sorted(each["status"] for each in noted.values()) == ["done", "failed"]
    two = ("--fixed", tmp_path / "pairs" / "ct", "--moving", tmp_path / "pairs" / "mr")
    code, said = run("register", *two, "-o", tmp_path / "two", *QUICK)
    assert code == 3
    assert (tmp_path / "two" / "p0" / "transform.h5").is_file()


def test_a_series_in_dicom_is_a_side_like_any_other(tmp_path: Path) -> None:
    for name, centre in (("ct", (2.0, -1.0, 5.0)), ("later", (5.0, -1.0, 5.0))):
        factory.series(tmp_path / name, modality="CT", name=name, centre_mm=centre, syntax=ExplicitVRLittleEndian)
    code, said = run(
        "register", "--fixed", tmp_path / "ct", "--moving", tmp_path / "later", "-o", tmp_path / "out", *QUICK
    )
    assert code == 0, said
    warped = io.read_geometry(tmp_path / "out" / "later_to_ct" / "warped.nii.gz")
    assert warped.allclose(io.read_geometry(tmp_path / "ct"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a network that learned next to nothing."""
    folder = tmp_path_factory.mktemp("trained")
    brains = write_subjects(folder / "brains", 4)
    code, said = run(
        "plan", brains, "--task", "registration", "--network", "voxelmorph", "--work", folder / "work", "--json"
    )
    assert code == 0, said
    plan = Path(json.loads(said[said.index("{") :])["plans"][0]["plan"])
    small = ("--set", "topology.features=[4,4,8]", "--set", "registration.affine=centres")
    code, said = run("train", plan, "--steps", "2", *small, "--workers", "0", "--precision", "fp32")
    assert code == 0, said
    return plan.parent / "fold_0"


def test_a_trained_network_deforms_and_what_it_did_not_learn_from_is_told(tmp_path: Path, trained: Path) -> None:
    brains = write_subjects(tmp_path / "brains", 2)
    image, _ = subject(7)
    io.write(image.with_array(image.array * 4 - 1000), tmp_path / "scan.nii.gz")
    sides = (
        "register",
        "--fixed",
        brains / "s0_t1.nii.gz",
        "--moving",
        brains / "s1_t1.nii.gz",
        "-o",
        tmp_path / "out",
    )
    code, said = run(*sides, "-m", trained)
    assert code == 0, said
    assert "network: voxelmorph" in said
    assert "alignment: centres" in said
    assert "finished earlier, 0 failed" in run(*sides, "-m", trained)[1]
    record = PairRecord.load(tmp_path / "out" / "s1_t1_to_s0_t1")
    assert set(record.seconds) >= {"network"}
    assert "refine" not in record.seconds
    assert "options changed" in run(*sides, "-m", trained, "--refine", "2")[1]
    code, said = run("register", "--fixed", brains / "s0_t1.nii.gz", "--moving", tmp_path / "scan.nii.gz", "-o",
                     tmp_path / "other", "-m", trained)  # fmt: skip
    assert code == 0, said
    assert "the moving image looks like CT, and the model learned from" in said


def _altered(name: str, folder: Path) -> Path:
    """An image that something is wrong with, or odd about, in a file of that name."""
    image, label = subject(0 if name == "mirrored" else 1)
    affine, array = image.geometry.affine.copy(), image.array.copy()
    match name:
        case "elsewhere":
            affine[:3, 3] += 500
        case "mirrored":
            affine[1] *= -1
        case "slice":
            array = array[..., 6:7]
        case "series":
            array = np.repeat(array, 3, axis=0)
        case "flat":
            array[:] = 7
        case "holes":
            array[0, 3, 3, 3] = np.nan
        case "values":
            array = np.where(label.array == 2, 7, label.array).astype(np.uint8)
        case "corner" | "other corner":
            array = np.zeros_like(label.array)
            array[:, -1 if name == "corner" else 0, -1, -1 if name == "corner" else 0] = 1
        case "empty":
            array = np.zeros_like(label.array)
    volume = Volume(array, Geometry(array.shape[1:], affine))
    io.write(volume, folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("elsewhere", "the images do not overlap in space: their centres of mass were brought together"),
        ("mirrored", "one of the headers seems to be mirrored, and no registration can make up for that"),
    ],
)
def test_what_is_odd_about_images_is_told_and_they_are_registered(tmp_path: Path, name: str, told: str) -> None:
    fixed, odd = write_subjects(tmp_path / "in", 1) / "s0_t1.nii.gz", _altered(name, tmp_path)
    code, said = run("register", "--fixed", fixed, "--moving", odd, "-o", tmp_path / "out", "--refine", "0")
    assert code == 0, said
    assert told in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("slice", "the moving image is a single slice of 14 x 13 x 1 voxels; give the whole series"),
        ("series", "the moving one has 3 channels or time points; write the one to register to a file of its own"),
        ("flat", "the image is the same everywhere"),
        ("holes", "1 of 2184 intensities (0.046 %) are NaN or infinite; replace them"),
    ],
)
def test_images_that_cannot_be_registered_are_refused_by_name(tmp_path: Path, name: str, words: str) -> None:
    fixed, wrong = write_subjects(tmp_path / "in", 1) / "s0_t1.nii.gz", _altered(name, tmp_path)
    code, said = run("register", "--fixed", fixed, "--moving", wrong, "-o", tmp_path / "out", *QUICK)
    assert code == 3
    assert tells(said, words)
    assert tells(said, str(wrong))
    assert not (tmp_path / "out" / f"{name}_to_s0_t1").exists()


def test_masks_that_nothing_can_be_aligned_by_are_refused(tmp_path: Path) -> None:
    brains = write_subjects(tmp_path / "in", 2)
    sides = ("register", "--fixed", brains / "s0_t1.nii.gz", "--moving", brains / "s1_t1.nii.gz", "--refine", "0")
    corner, other, empty = (_altered(name, tmp_path) for name in ("corner", "other corner", "empty"))
    code, said = run(*sides, "--fixed-mask", corner, "--moving-mask", other, "-o", tmp_path / "apart")
    assert code == 3
    assert tells(said, "the images could not be brought to overlap")
    assert tells(said, f"fixed image {brains / 's0_t1.nii.gz'}, moving image {brains / 's1_t1.nii.gz'}")
    for side in ("fixed", "moving"):
        code, said = run(*sides, f"--{side}-mask", empty, "-o", tmp_path / side)
        assert code == 3
        assert tells(said, f"{empty} marks nothing of")
        assert tells(said, "leave the mask out")


def test_label_maps_with_other_structures_are_told(tmp_path: Path) -> None:
    brains = write_subjects(tmp_path / "in", 2)
    code, said = run(
        "register", "--fixed", brains / "s0_t1.nii.gz", "--moving", brains / "s1_t1.nii.gz", "-o", tmp_path / "out",
        "--fixed-label", brains / "s0_labels.nii.gz", "--moving-label", _altered("values", tmp_path), *QUICK,
    )  # fmt: skip
    assert code == 0, said
    assert "structures in one of the label maps alone, left out of the Dice: 2, 7" in said


def test_a_record_names_files_from_the_root_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is evaluated wherever one is, of files that were given as seen from elsewhere."""
    brains = write_subjects(tmp_path / "in", 2)
    monkeypatch.chdir(brains)
    code, said = run("register", "--fixed", "s0_t1.nii.gz", "--moving", "s1_t1.nii.gz", "-o", tmp_path / "out", *QUICK)
    assert code == 0, said
    monkeypatch.chdir(tmp_path)
    code, said = run("evaluate", "out")
    assert code == 0, said


def test_pairs_that_a_network_did_not_learn_from_are_those_of_its_fold(tmp_path: Path, trained: Path) -> None:
    for options, words in (
        ((), "name its run folder with -m"),
        (("-m", trained, "--fixed", trained), "names the pairs itself"),
    ):
        code, said = run("register", "--validation", "-o", tmp_path / "out", *options)
        assert code == 2
        assert words in said
    code, said = run("register", "--fixed", trained, "--data", trained, "-o", tmp_path / "out")
    assert code == 2
    assert "--data says where the images of --validation are" in said


def test_pairs_that_are_none_end_with_the_exit_code_of_data(tmp_path: Path) -> None:
    write_subjects(tmp_path / "one", 1)
    (tmp_path / "none").mkdir()
    tables = {
        "twice": "id,fixed,moving\na,one/s0_t1.nii.gz,one/s0_labels.nii.gz\nA,one/s0_labels.nii.gz,one/s0_t1.nii.gz\n",
        "header": "fixed,moving\n",
        "empty": "",
    }
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    given = [("--pairs", tmp_path / f"{name}.csv") for name in tables]
    for options in (*given, ("--fixed", tmp_path / "one"), ("--fixed", tmp_path / "none")):
        code, said = run("register", *options, "-o", tmp_path / "out")
        assert code == 3, (options, said)
    assert not (tmp_path / "out").exists()


def test_images_without_a_partner_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fixed, moving = write_subjects(tmp_path / "fx", 2), write_subjects(tmp_path / "mv", 1)
    code, said = run("register", "--fixed", fixed, "--moving", moving, "-o", tmp_path / "out", *QUICK)
    assert code == 0, said
    assert f"no image of the other folder bears the name of s1 in {fixed}: left out" in caplog.text


def test_results_go_neither_among_the_images_nor_below_a_file(tmp_path: Path) -> None:
    brains = write_subjects(tmp_path / "brains", 2)
    code, said = run("register", "--fixed", brains, "-o", brains, *QUICK)
    assert code == 2
    assert tells(said, f"results would lie among them; give another folder, such as {brains / 'registered'}")
    file = brains / "s0_t1.nii.gz"
    code, said = run("register", "--fixed", brains, "-o", file / "out", *QUICK)
    assert code == 2
    assert tells(said, f"{file} is a file, not a folder; give another name")


def test_options_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    brains = write_subjects(tmp_path / "brains", 2)
    image, table = brains / "s0_t1.nii.gz", tmp_path / "t.csv"
    table.write_text("fixed,moving\nbrains/s0_t1.nii.gz,brains/s1_t1.nii.gz\n")
    for options, words in (
        ((), "give either --fixed and --moving, a table"),
        (("--fixed", image, "--pairs", table), "give either --fixed and --moving, a table"),
        (("--fixed", image), f"{image} is one image; name the image to bring onto it with --moving"),
        (("--fixed", image, "--moving", brains), f"{image} is one image, but {brains} is a folder"),
        (("--fixed", brains, "--moving", image), "give two images or two folders"),
        (("--fixed", brains, "--fixed-label", image), "name them in a table"),
        (("--fixed", image, "--moving", image, "--atlas", "s0"), "--atlas is of a folder"),
        (("--fixed", brains, "--direction", "both"), "name it with --atlas"),
    ):
        code, said = run("register", *options, "-o", tmp_path / "out")
        assert code == 2, (options, said)
        assert words in said
