"""The page in headless Chromium: it asks for nothing, complains of nothing, and does what its controls say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmamba.evaluation import page
from medmamba.evaluation.evaluate import evaluate
from medmamba.evaluation.matching import match_files
from medmamba.evaluation.page.viewer import niivue
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import Origin
from tests.evaluation.page.chromium import PATIENCE_S, Chromium, find
from tests.evaluation.page.factory import LESIONS, TWO, made_up, write_masks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="no Chromium; MEDMAMBA_CHROMIUM may say where it is"),
]
CASES = 7


def scored(folder: Path, name: str) -> Report:
    """A report of masks on disk, with a few lesions."""
    predictions, references = folder / "predictions", folder / "references"
    report = evaluate(match_files(predictions, references).pairs, TWO)
    cases = tuple(
        replace(case, scores=tuple(replace(score, lesions=LESIONS) for score in case.scores)) for case in report.cases
    )
    return replace(report, cases=cases, name=name, origin=Origin(prediction=predictions, reference=references))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    *_, images = write_masks(folder, CASES)
    return page.write([scored(folder, "ours"), scored(folder, "theirs")], folder / "page.html", images=images)


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path / "profile") as browser:
        browser.size(1280, 900)
        yield browser
        assert {address.partition(":")[0] for address in browser.requests} <= {"file", "data", "blob"}
        own = [address for address in browser.requests if address.startswith("file:")]
        assert len(set(own)) <= 1, "the page asked for another file"
        # That drawing in software and looking at pixels, as the tests do, is slow, is not the page's fault.
        slow = ("GPU stall", "willReadFrequently")
        complaints = [words for words in browser.complaints if not any(word in words for word in slow)]
        assert complaints == []


def test_tables_are_sorted_filtered_and_lead_to_rows(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    first = "document.querySelector('#cases-table tbody tr').cells[0].textContent"
    dice = "[...document.querySelectorAll('#cases-table thead th')].find(h => h.dataset.name === 'Dice')"
    chromium.run(f"{dice}.querySelector('button').click()")
    assert chromium.run(f"{dice}.getAttribute('aria-sort')") == "ascending"
    column = chromium.run(f"[...{dice}.parentNode.children].indexOf({dice})")
    cells = (
        f"[...document.querySelectorAll('#cases-table tbody tr')].map(r => parseFloat(r.cells[{column}].textContent))"
    )
    values = chromium.run(cells)
    assert values == sorted(values)
    chromium.run(
        "(() => { const box = document.querySelector('#cases-table').closest('.table').querySelector('input');"
        "box.value = 'case_3'; box.dispatchEvent(new Event('input')); })()"
    )
    assert chromium.run(first).startswith("case_3")
    assert chromium.run("document.querySelectorAll('#cases-table tbody tr').length") == 2 * 2
    chromium.run("location.hash = '#case-5'")
    chromium.wait_for("document.querySelector('#case-5')?.classList.contains('marked')")
    choose = "document.querySelector('#single-lesions select[aria-label=kind]')"
    chromium.run(f"(() => {{ {choose}.value = 'missed'; {choose}.dispatchEvent(new Event('change')); }})()")
    kinds = "[...new Set([...document.querySelectorAll('#lesion-table tbody tr')].map(r => r.cells[3].textContent))]"
    assert chromium.run(kinds) == ["missed"]


def test_viewer_shows_a_case_and_follows_keys(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    chromium.run("document.querySelector('[data-view]').click()")
    chromium.wait_for("document.querySelectorAll('#viewer canvas').length === 3 && scene.judged")
    colours = (
        "(() => { const c = document.querySelector('#viewer canvas'); const d = c.getContext('2d').getImageData(0, 0,"
        " c.width, c.height).data; const seen = new Set(); for (let p = 0; p < d.length; p += 4)"
        " if (Math.abs(d[p] - d[p + 2]) > 60) seen.add(d[p] > d[p + 2] ? 'false' : 'missed');"
        " return [...seen].sort(); })()"
    )
    assert chromium.run(colours) == ["false", "missed"]
    before = chromium.run("[...state.at]")
    key = (
        "document.querySelector('#viewer .frame')"
        ".dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
    )
    chromium.run(key % "PageDown")
    chromium.run(key % "ArrowUp")
    assert chromium.run("[...state.at]") == [before[0], before[1] + 1, before[2] - 1]
    chromium.run(key % "m")
    assert chromium.run("document.querySelector('[data-model]').value") == "1"
    chromium.run(key % "o")
    assert chromium.run(colours) == []
    chromium.run("openViewer(0, { voxel: [3, 4, 5] })")
    chromium.wait_for("document.querySelector('#viewer .status').textContent.startsWith('voxel 3, 4, 5')")


def test_viewer_opens_in_an_error_and_keys_work_wherever_the_focus_is(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    chromium.run("document.querySelector('[data-view]').click()")
    chromium.wait_for("scene !== null && scene.judged && panes.length === 3")
    kind = "scene.judged[state.at.reduce((sum, at, axis) => sum + at * strides(scene.shape)[axis], 0)]"
    assert chromium.run(f"{kind} > RIGHT")
    for focus in ("document.querySelector('#viewer [data-step]')", "document.body"):
        before = chromium.run("[...state.at]")
        chromium.run(f"({focus}.focus(), document.activeElement.blur(), {focus}.focus())")
        for key in ("ArrowUp", "PageUp"):
            chromium("Input.dispatchKeyEvent", type="keyDown", key=key)
        assert chromium.run("[...state.at]") == [before[0], before[1] + 1, before[2] + 1]
    chromium.run("panes[2].frame.focus()")  # sagittal: up and down the slices are to the right and left
    chromium("Input.dispatchKeyEvent", type="keyDown", key="PageUp")
    assert chromium.run("state.at[0]") == before[0] + 1
    chromium("Input.dispatchKeyEvent", type="keyDown", key="w")
    assert chromium.run(f"{kind} > RIGHT")


def test_largest_error_is_found_by_voxels_that_touch(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    # One voxel alone, six in a row, and one that touches these by a corner and moves their middle.
    wrong = [[0, 0, 0], *([x, 3, 1] for x in range(2, 8)), [8, 4, 2]]
    script = (
        "(() => {{ const shape = [9, 7, 5]; const judged = new Uint8Array(315).fill(RIGHT);"
        " for (const [x, y, z] of {wrong}) judged[x + 9 * (y + 7 * z)] = MISSED;"
        " return worst({{ shape, judged, spacing_mm: [1, 1, 1] }}); }})()"
    )
    assert chromium.run(script.format(wrong=wrong)) == [5, 3, 1]
    assert chromium.run(script.format(wrong="[]")) == [4, 3, 2]


def test_without_webgl_the_slices_stay_and_it_is_said(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    chromium.run("document.querySelector('[data-view]').click()")
    chromium.wait_for("scene !== null && scene.judged && panes.length === 3")
    chromium.run(
        "(() => { const real = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext ="
        " function (kind) { return kind.startsWith('webgl') ? null : real.apply(this, arguments); }; })()"
    )
    chromium.run("switchSolid()")
    assert "offers no WebGL 2" in chromium.run("document.querySelector('#viewer .status').textContent")
    assert chromium.run("document.querySelector('.panes').hidden") is False
    assert chromium.run("document.querySelector('.solid').hidden") is True


def test_theme_holds_for_the_session(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    chromium.run("document.getElementById('theme').click()")
    chosen = chromium.run("document.documentElement.dataset.theme")
    chromium.open(written)
    assert chromium.run("document.documentElement.dataset.theme") == chosen
    chromium.run("sessionStorage.clear()")
    # Where nothing may be kept, the button works all the same.
    chromium.run("void Object.defineProperty(window, 'sessionStorage', { get() { throw new Error('refused'); } })")
    chromium.run("document.getElementById('theme').click()")
    assert chromium.run("document.documentElement.dataset.theme") not in ("", chosen)


def test_tables_can_be_skipped_by_keyboard(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    chromium("Emulation.setFocusEmulationEnabled", enabled=True)
    for table in ("cases-table", "lesion-table"):
        chromium.run(f"document.querySelector('.skip[href=\"#after-{table}\"]').focus()")
        assert chromium.run("document.activeElement.getBoundingClientRect().left") >= 0
        chromium(
            "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
        chromium.wait_for(f"location.hash === '#after-{table}'")
        chromium("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert chromium.run(
            f"Boolean(document.getElementById('{table}').compareDocumentPosition(document.activeElement) & 4)"
        ), "the focus is not behind the table"


def test_cells_that_a_spreadsheet_would_run_are_saved_as_text(tmp_path: Path, chromium: Chromium) -> None:
    ids = ["=cmd|calc", "+a", "-b", "@c", "-5", "plain"]
    chromium.open(page.write([made_up(ids)], tmp_path / "page.html", title="safe"))
    chromium.run(
        "(() => { URL.createObjectURL = (blob) => { window.saved = blob; return '#'; }; URL.revokeObjectURL = () => {};"
        " GRIDS.find(({ grid }) => grid.name === 'Single cases').grid.save(); })()"
    )
    lines = chromium.run("window.saved.text()").lstrip("\ufeff").split("\r\n")
    assert {line.split(",")[0] for line in lines[1:]} == {"'=cmd|calc", "'+a", "'-b", "'@c", "-5", "plain"}


@pytest.mark.skipif(niivue() is None, reason="the extra medmamba[viewer] is not installed")
def test_niivue_shows_a_case_in_3d(written: Path, tmp_path: Path, chromium: Chromium) -> None:
    chromium.open(written)
    chromium.run("document.querySelector('[data-view]').click()")
    chromium.wait_for("scene && scene.judged")
    chromium.run("switchSolid()")
    chromium.wait_for("widget !== null && document.querySelector('.solid canvas') !== null")
    left, top, width, height = chromium.run(
        "(() => { const b = document.querySelector('.solid canvas').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    until = time.monotonic() + PATIENCE_S
    shown = 0
    while shown < 100:  # pixels of the large view that are no background
        assert time.monotonic() < until, "nothing is drawn"
        chromium.picture(tmp_path / "solid.png")
        picture = np.asarray(Image.open(tmp_path / "solid.png").convert("L"))
        large = picture[int(top) : int(top + height), int(left) : int(left + width * 0.55)]
        shown = int((large > 60).sum())
    said = [event["params"]["args"] for event in chromium.events if event.get("method") == "Runtime.consoleAPICalled"]
    assert [words for words in said if "render_volumes" in str(words)] == []


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_page_fits_its_window_in_dark_and_light(width: int, written: Path, chromium: Chromium) -> None:
    chromium.size(width, 800, phone=width < 1000)
    chromium.dark()
    chromium.open(written)
    assert chromium.run("document.documentElement.scrollWidth") == width
    cut = "[...document.querySelectorAll('.short .chart .scroll')].filter(b => b.scrollWidth > b.clientWidth).length"
    assert chromium.run(cut) == 0
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = chromium.run(ground)
    chromium.run("document.getElementById('theme').click()")
    assert chromium.run(ground) != dark


def test_ids_that_would_be_code_are_text(tmp_path: Path, chromium: Chromium) -> None:
    ids = ["<script>document.title = 'harmed'</script>", "<img src=x onerror=\"document.title = 'harmed'\">", "x" * 300]
    chromium.size(360, 800, phone=True)
    chromium.open(page.write([made_up(ids)], tmp_path / "page.html", title="safe"))
    assert chromium.run("document.title") == "safe"
    assert chromium.run("document.documentElement.scrollWidth") == 360
    assert chromium.run("document.querySelectorAll('#lesion-table img, #cases-table img').length") == 0


def test_page_is_light_on_paper_whatever_is_preferred_or_chosen(written: Path, chromium: Chromium) -> None:
    chromium.open(written)
    for theme in ("light", "dark", ""):
        chromium.run(f"document.documentElement.dataset.theme = '{theme}'")
        chromium(
            "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
        )
        assert chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert chromium.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def test_page_prints(written: Path, tmp_path: Path, chromium: Chromium) -> None:
    chromium.open(written)
    chromium.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
