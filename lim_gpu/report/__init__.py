"""Reports: one offline HTML file with pictures, of selections or of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lim_gpu.errors import UsageError
from lim_gpu.files import file_sha256, fingerprint
from lim_gpu.outputs import check_file, made_otherwise
from lim_gpu.progress import Outcome, Reporter
from lim_gpu.reduction.parts import result_names
from lim_gpu.reduction.run import parts_folder
from lim_gpu.report.page import made_by, page_is_made_of
from lim_gpu.selection import selection_paths

MAKERS = ("*.py", "templates/*")
OF_A_RUN = (
    "config.json",
    "plan.txt",
    "metrics.jsonl",
    "views.png",
    "results.json",
)  # what a page shows, and pictures


def write_report(
    paths: Sequence[Path],
    output: Path,
    *,
    store: Path | None = None,
    window: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Write OUTPUT (.html) for one or several selections (NAME.csv), or for runs of pretrain and finetune (folders).

    store: where the store of the selections lies now, if it has moved. window: of the pictures of slices, a name or
    "LEVEL,WIDTH". Nothing is computed again, and no patient is named. What stands there and was made of the same is
    left. Raises UsageError for another existing output without `overwrite`, InputError for what is neither.
    """
    if output.suffix != ".html":
        raise UsageError(f"{output}: give a name that ends in .html")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(folders) < len(paths):
        raise UsageError("runs and selections have different reports. Give the ones or the others")
    if folders and window is not None:
        raise UsageError("--window is of pictures of slices, which a run has none of. Leave it out")
    asked = _made_of_runs(folders) if folders else _made_of_selections(paths, store, window)
    unchanged = output.exists() and page_is_made_of(output, asked)
    if output.exists() and not unchanged and not overwrite:
        raise made_otherwise(output)
    if not unchanged:
        check_file(output, replaced=True)
    if not unchanged and not dry_run:
        _write(paths, bool(folders), output, store, window, asked, reporter or Reporter(quiet=True))
    state = "unchanged:" if unchanged else "plan: ->" if dry_run else "->"
    return Outcome({"report": str(output), "dry_run": dry_run, "unchanged": unchanged}, [f"{state} {output}"])


def _write(
    paths: Sequence[Path],
    runs: bool,
    output: Path,
    store: Path | None,
    window: str | None,
    made_of: str,
    reporter: Reporter,
) -> None:
    if runs:
        from lim_gpu.report.run_report import write_run_report

        write_run_report(paths, output, made_of)
        return
    from lim_gpu.report.selection_report import write_selection_report

    write_selection_report(paths, output, store, window, reporter, made_of)


def _made_of_runs(folders: Sequence[Path]) -> str:
    """Changes with what a page of these runs shows. Raises InputError for a folder that is no run."""
    from lim_gpu.report.run_report import PICTURES, check_run

    for folder in folders:
        check_run(folder)
    files = [folder / name for folder in folders for name in (*OF_A_RUN, *PICTURES.values())]
    told = [[path.parent.name, path.name, file_sha256(path)] for path in files if path.is_file()]
    return fingerprint([made_by(*MAKERS), told])


def _made_of_selections(paths: Sequence[Path], store: Path | None, window: str | None) -> str:
    """Changes with the selections, and with which of their parts are there. Raises InputError as for the page."""
    from lim_gpu.report.selection_report import open_store
    from lim_gpu.report.shown import read_selections

    shown = read_selections(paths)
    with open_store(shown[0], store):
        told = [[one.selection.record["fingerprint"], one.selection.record["csv_sha256"]] for one in shown]
    parts = [result_names(parts_folder(selection_paths(path)[0])) for path in paths]
    return fingerprint([made_by(*MAKERS), told, parts, window])
