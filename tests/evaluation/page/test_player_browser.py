"""The player of films in headless Chromium: stepped by keys and buttons, each frame with its own masks and errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medmamba.clip import UNLABELLED
from medmamba.evaluation import page
from medmamba.evaluation.films import Values, score_film
from medmamba.evaluation.page.player import Sight
from medmamba.evaluation.report import Report
from medmamba.evaluation.scores import Film
from tests.evaluation.page.chromium import Chromium, find
from tests.film_factory import TWO, moving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="no Chromium; MEDMAMBA_CHROMIUM may say where it is"),
]
FRAMES, GAP, WORST = 24, 5, 17
METRICS = ("frame_dice", "boundary_f", "flicker", "delay", "delay_s", "dice")
FILM = Film(numbers=tuple(range(10, 10 + 2 * FRAMES, 2)), times_s=tuple(0.04 * frame for frame in range(FRAMES)))


def reference() -> Values:
    values = moving(FRAMES)
    values[GAP] = UNLABELLED
    return values


def prediction(shift: int) -> Values:
    """Off by some columns, and with nothing of the square in one frame."""
    values = moving(FRAMES, shift=shift)
    values[WORST][values[WORST] == 1] = 0
    return values


def grey(frame: int) -> int:
    return 8 * frame


def look(clip: str) -> Sight:
    pictures = np.stack([np.full((40, 48, 1), grey(frame), dtype=np.uint8) for frame in range(FRAMES)])
    return Sight(pictures=lambda: pictures, reference=reference(), predictions=(prediction(1), prediction(3)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reports = [
        Report(
            labels=TWO,
            metrics=METRICS,
            cases=(score_film("<b>clip", prediction(shift), reference(), FILM, TWO, metrics=METRICS),),
            name=name,
        )
        for name, shift in (("ours", 1), ("theirs", 3))
    ]
    return page.write(reports, tmp_path_factory.mktemp("page") / "page.html", look=look, title="films")


@pytest.fixture
def chromium(tmp_path: Path, written: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path / "profile") as browser:
        browser.size(1280, 1000)
        browser.open(written)
        browser.run("document.querySelector('.player').scrollIntoView({block: 'center'})")
        browser.wait_for(SHOWN.format(0))
        browser.run("void (window.player = PLAYERS.get(document.querySelector('.player')))")
        yield browser
        assert {address.partition(":")[0] for address in browser.requests} <= {"file", "data", "blob"}
        assert len({address for address in browser.requests if address.startswith("file:")}) == 1
        assert [words for words in browser.complaints if "willReadFrequently" not in words] == []


SHOWN = "document.querySelector('.player').dataset.shown === '{}'"
STATUS = "document.querySelector('.player .status').textContent"


def press(browser: Chromium, key: str, text: str = "") -> None:
    browser("Input.dispatchKeyEvent", type="keyDown", key=key, **({"text": text} if text else {}))
    browser("Input.dispatchKeyEvent", type="keyUp", key=key)


def pixel(browser: Chromium, pane: int, row: int, column: int) -> list[int]:
    """Of what a pane shows."""
    context = f"document.querySelectorAll('.player .panes canvas')[{pane}].getContext('2d')"
    return list(browser.run(f"[...{context}.getImageData({column}, {row}, 1, 1).data].slice(0, 3)"))


def test_keys_step_through_every_frame_and_each_shows_its_own_picture(chromium: Chromium) -> None:
    chromium.run("document.querySelector('.player').focus()")
    for frame in range(1, FRAMES):
        press(chromium, "ArrowRight")
        chromium.wait_for(SHOWN.format(frame))
        assert abs(pixel(chromium, 0, 39, 47)[0] - grey(frame)) <= 4
        assert f"frame {frame + 1} of {FRAMES}, number {10 + 2 * frame} · {0.04 * frame:.3f} s" in chromium.run(STATUS)
    press(chromium, "ArrowRight")
    chromium.wait_for(SHOWN.format(FRAMES - 1))
    for key, frame in (("Home", 0), ("End", FRAMES - 1), ("ArrowLeft", FRAMES - 2), ("PageUp", FRAMES - 12)):
        press(chromium, key)
        chromium.wait_for(SHOWN.format(frame))
    press(chromium, "w", "w")
    chromium.wait_for(SHOWN.format(WORST))


def test_buttons_and_slider_do_what_keys_do(chromium: Chromium) -> None:
    for button, frame in (("on", 1), ("on", 2), ("back", 1), ("last", FRAMES - 1), ("first", 0), ("worst", WORST)):
        chromium.run(f"player.buttons.get('{button}').click()")
        chromium.wait_for(SHOWN.format(frame))
    chromium.run("(player.slider.value = 7, player.slider.dispatchEvent(new Event('input')))")
    chromium.wait_for(SHOWN.format(7))
    left, top, width = chromium.run(
        "(() => { const b = player.plot.getBoundingClientRect(); return [b.left, b.top, b.width]; })()"
    )
    chromium(
        "Input.dispatchMouseEvent", type="mousePressed", x=left + width * 12 / (FRAMES - 1), y=top + 20, button="left",
        clickCount=1, buttons=1,
    )  # fmt: skip
    chromium.wait_for(SHOWN.format(12))


def test_space_plays_to_the_end_and_stops(chromium: Chromium) -> None:
    chromium.run("document.querySelector('.player').focus()")
    press(chromium, " ", " ")
    chromium.wait_for("player.timer !== null")
    chromium.wait_for(SHOWN.format(FRAMES - 1))
    chromium.wait_for("player.timer === null")
    press(chromium, " ", " ")
    chromium.wait_for("player.timer !== null && player.at < 20")
    press(chromium, " ", " ")
    assert chromium.run("player.timer") is None


def test_errors_and_masks_are_those_of_the_frame(chromium: Chromium) -> None:
    def paints(frame: int, expected: Values, predicted: Values) -> None:
        chromium.run(f"player.show({frame})")
        chromium.wait_for(SHOWN.format(frame))
        for row, column in np.argwhere((expected != predicted) | (expected > 0))[::37]:
            there, said = int(expected[row, column]), int(predicted[row, column])
            kind = 1 if there == said else 2 if not said else 3 if not there else 4
            red, green, blue, share = chromium.run(f"DATA.paints[{kind}]")
            shade = pixel(chromium, 0, row, column)[0]
            wanted = [shade + (colour - shade) * share for colour in (red, green, blue)]
            assert np.abs(np.subtract(pixel(chromium, 3, row, column), wanted)).max() <= 3, (frame, row, column)

    for frame in (0, 13, WORST):
        paints(frame, reference()[frame], prediction(1)[frame])
    chromium.run("document.querySelector('.player').focus()")
    press(chromium, "m", "m")
    chromium.wait_for("player.model === 1")
    paints(13, reference()[13], prediction(3)[13])
    chromium.run(f"player.show({GAP})")
    chromium.wait_for(SHOWN.format(GAP))
    assert "no reference mask, not scored" in chromium.run(STATUS)
    shades = {pixel(chromium, pane, 15, 24)[0] for pane in (0, 1, 3)}
    assert max(shades) - min(shades) == 0


def test_one_label_can_be_chosen(chromium: Chromium) -> None:
    chromium.run("player.show(13)")
    chromium.wait_for(SHOWN.format(13))
    inside = pixel(chromium, 1, 32, 10)  # of the bar
    chromium.run("(player.selects.label.value = '0', player.selects.label.dispatchEvent(new Event('change')))")
    chromium.wait_for("player.label === 0")
    bare = pixel(chromium, 1, 32, 10)
    assert inside != bare
    assert len(set(bare)) == 1  # grey as the film
    square = chromium.run(STATUS)
    chromium.run("document.querySelector('.player').focus()")
    press(chromium, "l", "l")
    chromium.wait_for("player.label === 1")
    assert chromium.run(STATUS) != square
    press(chromium, "o", "o")
    chromium.wait_for("player.masks === false")
    assert len(set(pixel(chromium, 1, 32, 10))) == 1


@pytest.mark.parametrize("width", [360, 1280])
def test_player_fits_its_window_in_dark_and_light(
    width: int, written: Path, chromium: Chromium, tmp_path: Path
) -> None:
    chromium.size(width, 900, phone=width < 1000)
    chromium.dark()
    chromium.open(written)
    assert chromium.run("document.documentElement.scrollWidth") == width
    assert chromium.run("document.querySelectorAll('article b').length") == 0  # ids are text
    ground = "getComputedStyle(document.querySelector('.case')).backgroundColor"
    dark = chromium.run(ground)
    chromium.run("document.getElementById('theme').click()")
    assert chromium.run(ground) != dark
