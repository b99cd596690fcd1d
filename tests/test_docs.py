"""Pictures of the documentation are those that their scripts draw."""

from __future__ import annotations

from tests.test_architecture import CHECKOUT, by_path


def test_picture_of_directions_is_what_its_script_draws() -> None:
    drawing = by_path(CHECKOUT / "docs" / "draw_registration.py")
    assert drawing.PICTURE.read_text() == drawing.draw(), "draw it again: python -m docs.draw_registration"
    x, y = drawing.transform(*drawing.POINT)
    assert f'cx="{drawing.MOVING[0] + drawing.HALF * x:.1f}" cy="{drawing.MOVING[1] + drawing.HALF * y:.1f}"' in (
        drawing.draw()
    )
