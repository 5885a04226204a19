"""What a measurement belongs to: the machine, the libraries and the code."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
CODE = ("lim_gpu/**/*.py", "kernels/*", "bench/**/*.py", "bench/*.cu")  # what a change of makes a measurement old
WRITERS = ("results.py", "goals.py", "text.py", "report.py", "plots.py")  # of bench/: they only show
LIBRARIES = (
    "numpy numba torch torchvision pillow scikit-image scipy ImageHash imagededup pytorch-msssim torchmetrics kornia "
    "cucim-cu12 cucim-cu13 fused-ssim cupy-cuda12x cupy-cuda13x"
).split()


@cache
def environment() -> dict[str, str]:
    """Everything that changes a number, as text."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory() / 2**30:.0f} GiB, {platform.system()}",
        "GPU": _gpu(),
        "versions": ", ".join([f"Python {platform.python_version()}", *filter(None, map(_library, LIBRARIES))]),
        "commit": _commit(),
        "command": " ".join(["python -m pytest", *sys.argv[1:]]),
        "sources": _digest(path for pattern in CODE for path in ROOT.glob(pattern)),
    }


def key() -> str:
    """Two runs with the same key measure the same. The sources stand for the commit, which counts texts too."""
    values = [value for name, value in environment().items() if name not in ("commit", "command")]
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none"
    properties = torch.cuda.get_device_properties(0)
    driver = "unknown"
    if tool := shutil.which("nvidia-smi"):
        command = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    memory = properties.total_memory / 2**30
    return (
        f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.multi_processor_count} SMs, "
        f"{memory:.0f} GiB, driver {driver}, CUDA {torch.version.cuda}"
    )


def _library(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """As LIM_GPU_COMMIT says, which a copy needs whose history is not this one's; else as git says."""
    if commit := os.environ.get("LIM_GPU_COMMIT"):
        return commit

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except FileNotFoundError:
            return ""

    changes = " with changes" if git("status", "--porcelain", "--", "lim_gpu", "kernels", "bench/*.py") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changes


def _digest(paths) -> str:
    state = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file() and path.name not in WRITERS:
            state.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:12]
