"""The page about registrations: pairs as a whole, methods pair by pair, and pictures that show what the fields do."""

from __future__ import annotations

import base64
import io as streams
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmamba import io
from medmamba.errors import DataError
from medmamba.evaluation import page
from medmamba.evaluation.page import registrations
from medmamba.evaluation.page.deformed import GRID, draw
from medmamba.evaluation.page.layers import LAYERS
from medmamba.evaluation.page.parts import subjects
from medmamba.evaluation.page.registrations import gather
from medmamba.evaluation.registered import evaluate_registrations
from medmamba.evaluation.registered_folder import RegisteredPair, Side
from medmamba.evaluation.report import Report
from medmamba.io.formats.transforms import write_transform
from medmamba.progress import silent
from medmamba.transform import Affine, Field, Transform
from medmamba.volume import Geometry, Volume
from tests.evaluation.page.chromium import Chromium, find
from tests.registered_factory import write_folder

PAIRS = 9


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, ...]:
    """Before, a good method and a worse one, of which one pair failed."""
    root = tmp_path_factory.mktemp("methods")
    good = write_folder(root / "good", root / "cases", PAIRS)
    worse = write_folder(root / "worse <i>", root / "cases", PAIRS, found=0.4, failed=("lost",))
    return (*evaluate_registrations(good)[::-1], evaluate_registrations(worse)[0])


@pytest.fixture(scope="module")
def written(reports: tuple[Report, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(reports, tmp_path_factory.mktemp("page") / "page.html")


def test_methods_are_compared_pair_by_pair_in_overlap_and_in_what_fields_do(reports: tuple[Report, ...]) -> None:
    found = gather(subjects(reports), silent)
    assert found is not None
    assert found.comparison is not None
    assert found.whole.metrics == ("mean_dice", "median_hd95", "folding", "sd_log_jacobian", "inverse_consistency",
                                   "tre", "seconds", "memory")  # fmt: skip
    of_dice = [each for each in found.comparison.contrasts if each.metric == "mean_dice"]
    better = {(each.first, each.second): each.better for each in of_dice}
    assert better["good", "worse <i>"] == "good"
    assert better["affine alone", "good"] == "good"
    time = [each for each in found.comparison.contrasts if each.metric == "seconds"]
    assert next(each for each in time if each.first == "good").same  # both records say so
    assert next(each for each in time if each.first == "affine alone").test.p_value is None
    assert set(found.comparison.cases) == {f"p{number}" for number in range(PAIRS)}


def test_the_page_has_everything_and_asks_nobody(written: Path) -> None:
    text = written.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    for part in ("results", "pairs", "distributions", "structures", "pictures", "comparison", "methods"):
        assert f'id="{part}"' in text
    assert "Volume agreement" not in text
    assert "Registration by good and worse &lt;i&gt;" in text
    assert "<i>" not in text.replace('element("i")', "")
    assert text.count("data-layers=") == 4 * 2  # two of the worst pairs, a median and a best one, by two methods
    assert all(f'data-layer="{name}"' in text for name in LAYERS)
    row = text[text.index('id="case-0"') - 5 :].split("</tr>")[0]
    assert "lost" in row
    assert 'class="bad"' in row
    assert str(written.parent.parent) not in text  # no folder of whoever made it
    assert "whole pair" in written.with_name("page.html.csv").read_text()


@pytest.mark.parametrize("part", ["results", "pairs", "comparison"])
def test_words_are_those_of_registration(written: Path, part: str) -> None:
    text = written.read_text()
    shown = text[text.index(f'id="{part}"') :].split("</section>")[0]
    said = [*re.findall(r'title="([^"]*)"', shown), re.sub(r"<[^>]*>", " ", shown)]
    assert not re.findall(r"(?i)\b(?:cases?|models?|predict\w*|segment\w*)\b", " ".join(said))


def test_what_is_not_over_all_pairs_says_over_how_many(reports: tuple[Report, ...], tmp_path: Path) -> None:
    *cases, last = reports[1].cases
    lost = replace(
        last, status="failed", figures={"tre": math.inf},
        scores=tuple(replace(score, values=(0.0, math.inf)) for score in last.scores),
    )  # fmt: skip
    gone = replace(reports[1], origin=replace(reports[1].origin, prediction=tmp_path / "gone"), cases=(*cases, lost))
    text = re.sub(r"<[^>]*>", " ", page.write([gone], tmp_path / "page.html").read_text())
    assert re.search(r"SD log J \S+ over 8 of 9 pairs", text)
    assert re.search(r"TRE \S+ mm over 8 of 9 pairs \(infinite in 1 that failed\)", text)
    assert re.search(r"median HD95 \(mm\)\s+whole pair\s+∞ \(\S+ of 8 finite\)", text)
    assert "Mean over pairs of mean Dice" in text


def test_methods_of_other_structures_are_not_compared(reports: tuple[Report, ...]) -> None:
    with pytest.raises(DataError, match="must have the same labels"):
        gather(subjects([reports[1], reports[2].of_labels(["cortex"])]), silent)


def test_without_files_there_are_numbers_and_no_pictures(reports: tuple[Report, ...], tmp_path: Path) -> None:
    gone = replace(reports[1], origin=replace(reports[1].origin, prediction=tmp_path / "gone"))
    text = page.write([gone], tmp_path / "page.html").read_text()
    assert "No pictures: images and transforms are not where the report says any more." in text
    assert 'id="pairs-table"' in text


def test_of_many_structures_the_largest_are_drawn(
    reports: tuple[Report, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrations, "MOST_STRUCTURES", 1)
    gone = replace(reports[1], origin=replace(reports[1].origin, prediction=tmp_path / "gone"))
    text = page.write([gone], tmp_path / "page.html").read_text()
    assert "The 1 largest of 3 structures; the table of structures has all." in text
    drawn = text[text.index('id="distributions"') : text.index('id="structures"')]
    assert "cortex" in drawn
    assert "nucleus" not in drawn


def test_pairs_without_labels_have_a_page_of_figures(reports: tuple[Report, ...], tmp_path: Path) -> None:
    alone = reports[1].whole(("folding", "tre")).only(("folding", "tre"))
    text = page.write([alone], tmp_path / "page.html").read_text()
    assert 'id="structures"' not in text
    assert "sums-structures" not in text
    assert text.count(">folding (%)<") > 1


def one_pair(folder: Path, vectors_mm: tuple[float, float, float], flip: bool) -> RegisteredPair:
    """A bright point in the middle, to which the field leads from elsewhere; both images are the same."""
    affine = np.diag([-2.0 if flip else 2.0, 2, 2, 1])
    affine[:3, 3] = -affine[:3, :3] @ (15.0, 15, 15)
    grid = Geometry((31, 31, 31), affine)
    radius = np.linalg.norm(np.indices((31, 31, 31)) - 15.0, axis=0)
    array = np.where(radius < 12, 100, 0).astype(np.float32)[None]
    array[:, 13:18, 13:18, 13:18] = 255
    io.write(Volume(array, grid), folder / "image.nii.gz")
    shift = np.broadcast_to(np.array(vectors_mm, np.float32)[:, None, None, None], (3, 31, 31, 31))
    write_transform(Transform((Field(shift, grid), Affine(np.eye(4)))), folder / "transform.h5")
    side = Side(image=folder / "image.nii.gz")
    return RegisteredPair(id="p", folder=folder, fixed=side, moving=side)


def picture(source: str) -> np.ndarray:
    return np.asarray(Image.open(streams.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"), np.float64)


def middle(shades: np.ndarray) -> np.ndarray:
    """(row, column) of what is brightest."""
    return np.argwhere(shades > 200).mean(axis=0)


@pytest.mark.parametrize("flip", [False, True], ids=["RAS", "LAS"])
def test_pictures_show_where_points_go_whichever_way_the_file_runs(tmp_path: Path, flip: bool) -> None:
    """The field leads 8 mm to the patient's left and 6 mm up: what is in the middle comes from there."""
    drawn = draw(one_pair(tmp_path, (-8.0, 0, 6), flip))  # in RAS, left is negative
    start, end = (round(share * drawn.width) for share in drawn.panels[1])  # coronal
    fixed, before, after = (picture(drawn.sources[name])[:, start:end, 0] for name in ("fixed", "before", "after"))
    np.testing.assert_allclose(middle(before), middle(fixed), atol=0.6)
    pixels_a_mm = fixed.shape[1] / 62
    # Pulled: the point appears to the right of the patient, which is at the picture's left, and lower.
    moved = (middle(after) - middle(fixed)) / pixels_a_mm
    np.testing.assert_allclose(moved, [6, -8], atol=0.7)


def test_the_grid_is_drawn_where_the_field_leads(tmp_path: Path) -> None:
    """Lines of an even shift are as straight as without it, and as far off."""
    (tmp_path / "still").mkdir()
    (tmp_path / "moved").mkdir()
    still, moved = (
        draw(one_pair(tmp_path / name, vectors, False))
        for name, vectors in (("still", (0.0, 0, 0)), ("moved", (-0.6, 0, 0)))
    )
    start, end = (round(share * still.width) for share in still.panels[0])  # axial

    def columns(source: str) -> np.ndarray:
        """How much of each column has the colour of the grid."""
        return (np.abs(picture(source)[:, start:end] - GRID).max(axis=2) < 60).mean(axis=0)

    ours, theirs = columns(still.sources["grid"]), columns(moved.sources["grid"])
    # Less than half the distance of two lines.
    best = max(range(-5, 6), key=lambda shift: float(np.roll(ours, shift)[45:-45] @ theirs[45:-45]))
    pixels_a_mm = (end - start) / 62
    assert best == pytest.approx(0.6 * pixels_a_mm, abs=1)  # to the patient's left, the picture's right


@pytest.mark.skipif(find() is None, reason="no Chromium; MEDMAMBA_CHROMIUM may say where it is")
@pytest.mark.slow
class TestInChromium:
    """Controls do what they say."""

    @pytest.fixture
    def chromium(self, tmp_path: Path) -> Iterator[Chromium]:
        with Chromium(tmp_path / "profile") as browser:
            browser.size(1280, 900)
            yield browser
            assert browser.complaints == []
            assert {address.partition(":")[0] for address in browser.requests} <= {"file", "data"}

    def test_the_border_moves_in_every_view_and_pictures_are_chosen(self, written: Path, chromium: Chromium) -> None:
        chromium.open(written)
        box = "document.querySelector('[data-layers]')"
        clip = f"{box}.querySelector('.stage img + img').style.clipPath"
        before = chromium.run(clip)
        chromium.run(
            f"(() => {{ const r = {box}.querySelector('input'); r.value = 20;"
            " r.dispatchEvent(new Event('input')); })()"
        )
        after = chromium.run(clip)
        assert before != after
        assert after.count("100%") == 2 * 3  # each of three views has an edge of its own
        assert chromium.run(f"{box}.querySelector('input').getAttribute('aria-valuetext')") == "20 % before"
        chromium.run(
            f"(() => {{ const s = {box}.querySelectorAll('select')[1]; s.value = 'Jacobian';"
            " s.dispatchEvent(new Event('change')); })()"
        )
        assert "blue shrinks" in chromium.run(f"{box}.querySelector('.stage img').alt")
        chromium.size(390, 800, phone=True)
        assert chromium.run("document.documentElement.scrollWidth") <= 390
