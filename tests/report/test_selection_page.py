"""The page of selections in a browser: it loads nothing, and slices are kept and dropped by a click."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from lim_gpu.ingest import ingest
from lim_gpu.reduction.run import reduce
from lim_gpu.report import write_report
from stores import SHAPES, make_sources

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def test_a_browser_reads_it_without_errors_or_requests(reduced, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    page_path = tmp_path / "r.html"
    write_report([reduced / "hash.csv", reduced / "ssim.csv"], page_path)
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            seen: list[str] = []
            page.on("console", lambda message, seen=seen: seen.append(message.text))
            page.on("pageerror", lambda error, seen=seen: seen.append(str(error)))
            page.on("request", lambda request, seen=seen: seen.append(request.url))
            page.goto(page_path.as_uri())
            assert [text for text in seen if not text.startswith(("data:", page_path.as_uri()))] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            before = page.inner_text("#answer-1")
            page.fill("#slider-1", "0")
            assert page.inner_text("#answer-1") != before
            assert re.match(r"threshold 0 bits apart: [\d,]+ of 35 slices kept", page.inner_text("#answer-1"))
            page.close()
        browser.close()


def test_long_names_stay_within_a_narrow_page(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    sources = make_sources(tmp_path / "patient-of-a-public-collection.1.2.826.0.1.3680043.10.1338.3.2", SHAPES[:1])
    ingest([sources], tmp_path / "slices", keep_identifiers=True, workers=1)
    reduce(tmp_path / "slices", "random", keep=0.4, output=tmp_path / "s.csv")
    write_report([tmp_path / "s.csv"], tmp_path / "r.html")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.goto((tmp_path / "r.html").as_uri())
        assert sources.name in page.inner_text("section h3")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()


def test_slices_are_kept_and_dropped_by_a_click_and_saved_for_select(reduced, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    page_path = tmp_path / "r.html"
    write_report([reduced / "ssim.csv", reduced / "hash.csv"], page_path)
    rows = list(csv.DictReader((reduced / "hash.csv").open()))
    key = rows[0]["volume"]
    kept = [int(row["slice"]) for row in rows if row["volume"] == key and row["kept"] == "1"]
    dropped = [int(row["slice"]) for row in rows if row["volume"] == key and row["kept"] == "0"]
    add = next([i, i + 1] for i in dropped if i + 1 in dropped)  # neighbours: written as a range
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(page_path.as_uri())
        for i in (kept[0], *add, dropped[-1], dropped[-1]):  # the last twice: as it was
            page.click(f'.rail [data-place="1/{key}/{i}"]')
        assert page.get_attribute(f'.rail [data-place="1/{key}/{add[0]}"]', "aria-pressed") == "true"
        assert page.get_attribute(f'.rail [data-place="0/{key}/{kept[0]}"]', "class") in (None, "")
        assert page.inner_text("#edits p").startswith("hash.csv: 2 added, 1 dropped")
        with page.expect_download() as saving:
            page.click("text=Save the edits")
        assert saving.value.suggested_filename == "hash.edits.txt"
        lines = Path(saving.value.path()).read_text().splitlines()
        assert lines[0].startswith("# ")
        assert lines[1:] == [f"add {key}:{add[0]}-{add[1]}", f"drop {key}:{kept[0]}"]
        page.click("text=Undo them")
        assert not page.is_visible("#edits")
        page.click(".enlarge >> nth=0")
        assert page.is_visible("dialog img")
        browser.close()
