"""What reaches the terminal."""

from __future__ import annotations

import threading
import warnings

import pytest

from lim_gpu import progress
from lim_gpu.progress import Reporter, counted, few, one_line


def test_control_characters_cannot_write_to_the_terminal():
    assert one_line("a\x1b[31m\nb\r\x07") == "a\\x1b[31m\\nb\\r\\x07"
    assert one_line("Ü ø 漢") == "Ü ø 漢"


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
