"""Pages stand alone: what is filled in is escaped, and nothing points outside."""

from __future__ import annotations

from matplotlib.figure import Figure

from lim_gpu.report.page import made_with, svg_text


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


def test_a_page_is_made_by_its_own_template_and_by_that_of_all(make_newer):
    names = ("leaks.html", "pretext.html", "evaluation.html")
    first = {name: made_with(name) for name in names}
    assert len(set(first.values())) == 3
    make_newer("templates/leaks.html")
    second = {name: made_with(name) for name in names}
    assert [name for name in names if first[name] != second[name]] == ["leaks.html"]
    make_newer("templates/page.html")
    assert all(made_with(name) != second[name] for name in names)
