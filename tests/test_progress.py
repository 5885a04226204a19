"""What reaches the terminal."""

from __future__ import annotations

import threading
import warnings

import pytest

from lim_gpu import progress
from lim_gpu.progress import Reporter, counted, few, one_line, two_digits


def test_control_characters_cannot_write_to_the_terminal():
    assert one_line("a\x1b[31m\nb\r\x07") == "a\\x1b[31m\\nb\\r\\x07"
    assert one_line("Ü ø 漢") == "Ü ø 漢"


@pytest.mark.parametrize(
    ("images", "said"), [(0.448, "0.45"), (3.14, "3.1"), (9.99, "10"), (10.4, "10"), (1234.5, "1,234")]
)
def test_a_slow_speed_is_not_rounded_to_nothing(images, said):
    assert two_digits(images) == said


def test_quiet_hides_notes_never_errors(capsys):
    reporter = Reporter(quiet=True)
    reporter.note("note")
    reporter.warn("careful")
    reporter.error("bad.dcm: cut")
    assert capsys.readouterr().err == "error: bad.dcm: cut\n"


def test_no_bar_where_stderr_is_no_terminal(capsys):
    with Reporter().track("x", 3, "files") as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_a_log_hears_of_long_work(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SILENCE", 1e-3)
    said, reporter = threading.Event(), Reporter()
    monkeypatch.setattr(reporter, "note", lambda line: said.set() if line.startswith("x: 3 of 12 files in 0 s") else 0)
    with reporter.track("x", 12, "files") as advance:
        advance(1)
        advance(2)
        assert said.wait(60)  # it comes while nothing advances
    assert capsys.readouterr() == ("", "")


def test_times_are_told_in_the_unit_that_suits_them():
    assert [progress.in_words(s) for s in (0.4, 119, 120, 7199, 7200)] == ["0 s", "119 s", "2 min", "120 min", "2.0 h"]
    log = progress._Log(print, "compare", 12, "volumes")
    assert log.line(600) == "compare: 0 of 12 volumes in 10 min"
    log.advance(4)
    assert log.line(600) == "compare: 4 of 12 volumes in 10 min, about 20 min left"
    assert progress._Log(print, "doctor", None, "").line(30) == "doctor: 30 s so far"


def test_an_interruption_ends_the_main_thread_alone(monkeypatch):
    monkeypatch.setattr(progress, "_interruptions", [KeyboardInterrupt()])
    with Reporter().track("x", 3, "files") as advance:
        other = threading.Thread(target=advance, args=(1,))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pytest's word for an exception in a thread
            other.start()
            other.join()
        with pytest.raises(KeyboardInterrupt):
            advance(1)


def test_one_of_something_is_one():
    assert [counted(n, "volume") for n in (0, 1, 1200)] == ["0 volumes", "1 volume", "1,200 volumes"]


def test_a_few_lines_then_a_count(capsys):
    lines = [str(i) for i in range(progress.MOST_SHOWN)]
    assert few(lines, "lines") == lines
    assert few([*lines, "a", "b"], "lines") == [*lines, "... and 2 more lines"]
    Reporter(quiet=True).errors(["a", "b", "c", "d", "e"], "of them")
    assert capsys.readouterr().err.splitlines() == ["error: a", "error: b", "error: c", "error: ... and 2 more of them"]
