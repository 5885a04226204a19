"""Reports: one offline HTML file with pictures, of selections or of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lim_gpu.errors import UsageError
from lim_gpu.progress import Reporter


def write_report(
    paths: Sequence[Path],
    output: Path,
    *,
    store: Path | None = None,
    window: str | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> None:
    """Write OUTPUT (.html) for one or several selections (NAME.csv), or for runs of pretrain and finetune (folders).

    store: where the store of the selections lies now, if it has moved. window: of the pictures of slices, a name or
    "LEVEL,WIDTH". Nothing is computed again, and no patient is named. Raises UsageError for an existing output without
    `overwrite`, InputError for what is neither.
    """
    if output.suffix != ".html":
        raise UsageError(f"{output}: give a name that ends in .html")
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: exists. Give --overwrite, or another -o")
    folders = [path for path in paths if path.is_dir()]
    if folders and len(folders) < len(paths):
        raise UsageError("give runs, or selections, not both")
    if folders and window is not None:
        raise UsageError("--window is of pictures of slices, which a run has none of. Leave it out")
    if folders:
        from lim_gpu.report.run_report import write_run_report

        write_run_report(folders, output)
        return
    from lim_gpu.report.selection_report import write_selection_report

    write_selection_report(paths, output, store, window, reporter or Reporter(quiet=True))
