"""``medmamba report``: what it reads, what models are called, and what the page is made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import medmamba.evaluation
from medmamba.cli.main import app
from medmamba.evaluation.evaluate import evaluate_files
from medmamba.evaluation.page import viewer
from tests.evaluation.factory import ball, description, save


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A page that only notes what it is made of."""
    written: list[dict[str, Any]] = []

    def write(reports: Any, path: Path, **options: Any) -> Path:
        written.append({"reports": reports, "path": path, **options})
        path.write_text("page")
        return path

    monkeypatch.setattr(medmamba.evaluation, "page", SimpleNamespace(write=write), raising=False)
    return written


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two folders of predictions, and the data set."""
    root = tmp_path / "Dataset001_Balls"
    for name in "abcde":
        save(ball(), root / "labelsTr" / f"{name}.nii.gz")
        save(ball() * 9, root / "imagesTr" / f"{name}_0000.nii.gz")
        for shift, model in enumerate(("near", "far"), 1):
            save(ball(shift=shift), tmp_path / model / f"{name}.nii.gz")
    (root / "dataset.json").write_text(description(ball=1))
    return tmp_path / "near", tmp_path / "far", root


def run(command: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [command, *map(str, arguments)], env={"COLUMNS": "200"})


def test_page_is_made_of_reports_with_the_images_of_their_data_set(
    models: tuple[Path, Path, Path], page: list[dict[str, Any]], tmp_path: Path
) -> None:
    near, far, root = models
    evaluate_files(near, root)[0].save(near)
    (tmp_path / "sites.csv").write_text("case,site\na,east\nb,west\nc,east\nd,west\ne,east\n")
    output = tmp_path / "page.html"
    result = run("report", near, far, "--reference", root, "-o", output, "--subgroups", tmp_path / "sites.csv")
    assert result.exit_code == 0, result.output
    (made,) = page
    assert [report.name for report in made["reports"]] == ["near", "far"]
    first, second = (report.table[:, 0, 0].mean() for report in made["reports"])
    assert first > second
    assert made["path"] == output
    assert [case.id for case in made["images"].training] == list("abcde")
    assert made["subgroups"] is not None
    assert f"page {output}" in result.stdout


def test_evaluation_writes_a_page_of_its_one_report(
    models: tuple[Path, Path, Path], page: list[dict[str, Any]], tmp_path: Path
) -> None:
    near, _, root = models
    images = root / "imagesTr"
    words = ("--report", tmp_path / "page.html", "--name", "mine", "--images", images, "--title", "Ours")
    assert run("evaluate", near, root, *words).exit_code == 0
    assert [report.name for report in page[0]["reports"]] == ["mine"]
    assert (page[0]["images"], page[0]["subgroups"]) == (images, None)
    assert (page[0]["title"], page[0]["viewer"]) == ("Ours", "auto")
    assert (near / "report.json").is_file()


def test_failed_cases_are_told_and_the_page_is_made_all_the_same(
    models: tuple[Path, Path, Path], page: list[dict[str, Any]], tmp_path: Path
) -> None:
    near, _, root = models
    (near / "b.nii.gz").unlink()
    result = run("report", near, "--reference", root, "-o", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "near: 1 of 5 cases failed" in result.stderr
    assert page


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("near",), 2, "say with --reference"),
        (("near", "near"), 2, "compared with itself"),
        (("near", "far", "--reference", "Dataset001_Balls", "--name", "a"), 2, "one name for each of the 2"),
        (("near", "-o", "near"), 2, "is a directory"),
        (("near/a.nii.gz",), 3, "a.nii.gz is not a text file"),
        (("gone",), 2, "does not exist"),
        (("near", "--reference", "far", "--metric", "dise"), 2, "unknown metric 'dise'"),
        (("near/report.json", "-o", "near/report.json"), 2, "is an input"),
        (("near", "-o", "page.txt"), 2, "give a name that ends in .html"),
        (("near", "-o", "mine.html"), 2, "mine.html exists and is no page of medmamba, so it is kept"),
        (("near", "-o", "other.html"), 2, "other.html.json, where the numbers of the page go, exists and is not of"),
        (("near", "-o", "Dataset001_Balls/labelsTr/a.nii.gz"), 2, "among the images or labels"),
        (("near", "--viewer", "3d"), 4, 'run pip install "medmamba[viewer]"'),
        (("near", "--viewer", "2d"), 2, "'2d' is not one of 'auto', 'slices', '3d'"),
    ],
)
def test_what_can_not_be_reported_on_says_what_to_do(
    models: tuple[Path, Path, Path],
    page: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(models[2].parent)
    monkeypatch.setattr(viewer, "niivue", lambda: None)
    Path("mine.html").write_text("<!doctype html><title>my page</title>")
    Path("other.html.json").write_text("{}")
    if "near/report.json" in arguments:
        evaluate_files(models[0], models[2])[0].save(models[0])
    result = run("report", *arguments)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert not page


def test_page_goes_into_a_folder_that_is_made_and_replaces_one_of_ours(
    models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "new" / "folder" / "page.html"
    for _ in range(2):
        result = run("report", models[0], "--reference", models[2], "-o", output, "--title", "Ours")
        assert result.exit_code == 0, result.output
    assert "<h1>Ours</h1>" in output.read_text()
    assert f"numbers {output}.json {output}.csv" in result.stdout


@pytest.mark.parametrize("victim", ["near/a.nii.gz", "near/report.json", "near/report.csv", "near/mine.html"])
def test_evaluation_never_puts_a_page_in_the_place_of_anything_else(
    victim: str, models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    near, _, root = models
    evaluate_files(near, root)[0].save(near)
    (near / "mine.html").write_text("<!doctype html><title>my page</title>")
    before = {path: path.read_bytes() for path in near.iterdir()}
    result = run("evaluate", near, root, "--report", tmp_path / victim)
    assert result.exit_code == 2
    assert "give a" in " ".join(result.stderr.split())
    assert {path: path.read_bytes() for path in near.iterdir()} == before
