"""``medmamba evaluate`` and ``report`` on folders of registrations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.remedies import run
from tests.registered_factory import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "registered", tmp_path / "cases")


def test_a_folder_of_registrations_needs_no_reference_and_tells_before_and_after(folder: Path) -> None:
    code, said = run("evaluate", folder, "--report", folder.parent / "page.html", "--name", "mine")
    assert code == 0, said
    for words in ("affine alone", "mine", "folding (%)", "inverse consistency (mm)", "TRE (mm)", "ventricle"):
        assert words in said
    written = {path.name for path in folder.iterdir() if path.is_file()}
    assert written == {"registration.json", "report.json", "report.csv", "pairs.csv", "before.json"}
    assert "Registration by mine" in (folder.parent / "page.html").read_text()
    assert run("evaluate", folder, "--json")[0] == 0  # once more over what it wrote


def test_json_has_the_figures_with_their_definitions(folder: Path) -> None:
    code, said = run("evaluate", folder, "--json", "--least-ml", "1")
    assert code == 0, said
    data = json.loads(said[said.index("{\n") : said.rindex("}") + 1])
    assert list(data["labels"]) == ["cortex"]
    assert data["cases"][0]["figures"]["folding"] == 0
    assert data["figures"]["folding"]["unit"] == "%"
    assert "Jacobian" in data["figures"]["sd_log_jacobian"]["definition"]


def test_methods_are_reported_together_once_each_was_evaluated(folder: Path) -> None:
    other = write_folder(folder.parent / "other", folder.parent / "cases", found=0.5)
    assert run("evaluate", folder)[0] == 0
    code, said = run("report", folder, other, "-o", folder.parent / "two.html")
    assert code == 2
    assert f"`medmamba evaluate {other}` makes them" in said
    assert run("evaluate", other)[0] == 0
    code, said = run("report", folder, other, "-o", folder.parent / "two.html")
    assert code == 0, said
    assert "Registration by registered and other" in (folder.parent / "two.html").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("{folder}", "{labels}"), "leave out the reference"),
        (("{folder}", "--summary-json"), "leave out --summary-json"),
        (("{labels}",), "name what it is to be compared with"),
        (("{labels}", "{labels}", "--least-ml", "1"), "leave out --least-ml"),
        (("{folder}", "--metric", "folding"), "is measured of registered pairs, always"),
        (("{folder}", "--metric", "mean_dice"), "is measured of registered pairs, always"),
    ],
)
def test_what_does_not_go_together_is_refused(folder: Path, options: tuple[str, ...], words: str) -> None:
    labels = folder.parent / "cases" / "p0_fixed_label.nii.gz"
    code, said = run("evaluate", *(option.format(folder=folder, labels=labels) for option in options))
    assert code == 2, said
    assert words in said


def test_pairs_that_failed_are_counted_and_said_loudly(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "registered", tmp_path / "cases", 2, failed=("lost",))
    overview = json.loads((folder / "registration.json").read_text())
    record = json.loads((folder / "p0" / "run.json").read_text())
    overview["pairs"]["lost"] |= {side: record[side] for side in ("fixed", "moving")}
    (folder / "registration.json").write_text(json.dumps(overview))
    code, said = run("evaluate", folder)
    assert code == 3
    assert "1 of 3 pairs were not registered and count with the worst values" in said
    assert "failed lost: no overlap" in said
    table = said[said.index("mean over pairs") : said.index("mean Dice: Mean over")]
    rows = {line[:18].strip(): " ".join(line.split()) for line in table.splitlines()}
    assert rows["median HD95 (mm)"].count("inf (") == rows["TRE (mm)"].count("inf (") == 2  # before and after
    assert table.count("finite of 3)") == 4
    assert rows["folding (%)"].endswith("0.000 over 2 of 3")
    assert "memory (GB)" in rows
    assert "the structure or there is none, and so is the mean" in said
    code, said = run("evaluate", folder, "--missing", "skip")
    assert code == 0
    assert "1 of 3 pairs were not registered and are left out: lost" in said
    table = said[said.index("mean over pairs") : said.index("mean Dice: Mean over")]
    assert table.count("over 2 of 3") == len(table.splitlines()[1:]) + 3  # in both columns where before is known too
