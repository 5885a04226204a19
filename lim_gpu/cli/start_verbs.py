"""Verbs for a beginning: a data set to try, and whether the machine is ready.

A verb checks nothing and computes nothing itself; it calls and prints.
"""

from __future__ import annotations

from pathlib import Path

import click

from lim_gpu.cli.command import Run, common, verb
from lim_gpu.cli.options import PATH
from lim_gpu.errors import InputError, NoGpuError
from lim_gpu.progress import Outcome


@verb(short_help="Make procedural CT, ingest it, reduce it with every method.")
@click.option(
    "-o", "--output", type=PATH, default="demo", show_default=True, help="Folder for all that the demo makes."
)
@click.option(
    "--angiograms", is_flag=True, help="Also chests after contrast, with labels and masks of emboli and nodules."
)
@click.option("--dry-run", is_flag=True, help="Say what would be made; make nothing.")
@click.option("--overwrite", is_flag=True, help="Use a folder that holds other files.")
@common
def demo(run: Run, output: Path, angiograms: bool, dry_run: bool, overwrite: bool) -> None:
    """Make procedural CT volumes, ingest them, reduce them with every method, and draw a matrix.

    Needs no download, no GPU and no data; on an idle machine it takes less than a minute.

    \b
    Example: lim-gpu demo -o demo
    """
    from lim_gpu.cli.demo import run_demo

    how = {"angiograms": angiograms, "overwrite": overwrite, "dry_run": dry_run}
    result = run_demo(output, run.seed, run.device, run.reporter, **how)
    run.done(result)


@verb(short_help="Is this machine ready? If not, what to do.")
@click.option(
    "--ray", is_flag=False, flag_value="auto", metavar="[ADDRESS]", help="Also ask every host of a Ray cluster."
)
@common
def doctor(run: Run, ray: str | None) -> None:
    """Check GPU, driver, CUDA, CuPy, NVRTC and decoders; compile and run a kernel; print the remedy for what is broken.

    \b
    Examples: lim-gpu doctor --device cuda
              lim-gpu doctor --ray head:6379
    """
    from lim_gpu.cli.doctor import BROKEN, examine, examine_hosts, gpu_usable

    with run.reporter.wait("doctor"):
        checks = examine(run.device)
    wanted = run.device.startswith("cuda") or any(check.state == BROKEN for check in checks)
    code = NoGpuError.exit_code if wanted and not gpu_usable(checks) else 0
    if ray is not None:
        hosts = examine_hosts(ray)
        checks += hosts
        code = code or (InputError.exit_code if any(check.state == BROKEN for check in hosts) else 0)
    values = {"gpu_usable": gpu_usable(checks), "checks": [vars(check) for check in checks]}
    run.done(Outcome(values, [check.line() for check in checks]), code)
