"""Pages stand alone: what is filled in is escaped, and nothing points outside."""

from __future__ import annotations

from matplotlib.figure import Figure

from lim_gpu.report.page import svg_text


def test_a_drawing_is_text_without_links_and_always_the_same():
    def draw() -> str:
        figure = Figure()
        figure.subplots().plot([1, 3, 2], label="line")
        return svg_text(figure)

    text = draw()
    assert text.startswith("<svg")
    assert "http" not in text
    assert "<metadata" not in text
    assert draw() == text
