"""Is this machine ready? GPU, driver, CUDA, CuPy, NVRTC and decoders, each with the remedy for what is not."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

# absent: not there and not needed; broken: there and of no use
OK, ABSENT, BROKEN = "ok", "absent", "broken"


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, its state (ok, absent, broken), what was seen, the remedy if it is not ok."""

    name: str
    state: str
    seen: str
    remedy: str = ""

    def line(self) -> str:
        """For a person."""
        return f"{self.state:7s} {self.name:9s} {self.seen}" + (f"  -> {self.remedy}" if self.remedy else "")


def examine_hosts(address: str) -> list[Check]:
    """Each host of a Ray cluster. Raises as `lim_gpu.cluster.connect`."""
    from lim_gpu.cluster import described_hosts

    own = version("lim-gpu")
    return [
        Check("host", OK, f"{host}, {has}")
        if there == own
        else Check("host", BROKEN, f"{host}, {has}", f"install lim-gpu {own} there, which runs here")
        for host, there, has in described_hosts(address)
    ]


def examine(device: str) -> list[Check]:
    """All checks, in the order in which one rests on the other. `device` names the GPU to try (auto: the first)."""
    checks = [Check("python", OK, f"{platform.python_version()} on {platform.platform()}"), _torch(), *_decoders()]
    gpu = _gpu(device)
    checks += [_ray(), gpu]
    if gpu.state == OK:
        checks += [_cupy(), _attempt("nvrtc", _nvrtc), _attempt("kernel", lambda: _kernel(device))]
    return checks


def gpu_usable(checks: list[Check]) -> bool:
    """Whether a kernel was compiled, run and found right."""
    return any(check.name == "kernel" and check.state == OK for check in checks)


def _torch() -> Check:
    import torch

    return Check("torch", OK, f"{torch.__version__}, built for CUDA {torch.version.cuda or 'none'}")


def _ray() -> Check:
    if _installed("ray"):
        return Check("ray", OK, version("ray"))
    return Check("ray", ABSENT, "not installed", "for several hosts: pip install 'lim-gpu[ray]'")


def _gpu(device: str) -> Check:
    import torch

    if torch.version.cuda is None:
        return Check("gpu", ABSENT, "torch is a CPU build", "for a GPU: pip install torch from the CUDA index")
    if not torch.cuda.is_available():
        return Check(
            "gpu",
            ABSENT,
            "no NVIDIA driver or no GPU; everything runs on the CPU",
            "for a GPU: install the NVIDIA driver",
        )
    index = torch.device(device).index or 0 if device.startswith("cuda") else 0
    if index >= torch.cuda.device_count():
        return Check(
            "gpu", BROKEN, f"there is no cuda:{index}", f"choose cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    free, total = torch.cuda.mem_get_info(index)
    seen = f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return Check("gpu", OK, seen)


def _cupy() -> Check:
    import torch

    major = str(torch.version.cuda).split(".")[0]
    extra = f"pip install 'lim-gpu[cuda{major}]'"
    installed = [(name, version(name)) for name in ("cupy-cuda12x", "cupy-cuda13x") if _installed(name)]
    if not installed:
        return Check("cupy", BROKEN, "not installed", extra)
    if len(installed) > 1:
        return Check("cupy", BROKEN, "two CuPy wheels are installed", f"pip uninstall both, then {extra}")
    name, number = installed[0]
    if not name.startswith(f"cupy-cuda{major}"):
        return Check(
            "cupy", BROKEN, f"{name} beside torch for CUDA {torch.version.cuda}", f"pip uninstall {name}, then {extra}"
        )
    return Check("cupy", OK, f"{name} {number}")


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _attempt(name: str, try_it: Callable[[], str]) -> Check:
    """Run one check; whatever goes wrong in CUDA's libraries is the finding."""
    try:
        return Check(name, OK, try_it())
    except Exception as error:
        return Check(
            name,
            BROKEN,
            f"{type(error).__name__}: {error}",
            "reinstall the CuPy wheel that fits torch's CUDA, and a driver that is as new",
        )


def _nvrtc() -> str:
    import cupy

    driver = cupy.cuda.runtime.driverGetVersion()
    return f"{'.'.join(map(str, cupy.cuda.nvrtc.getVersion()))}, driver for CUDA {driver // 1000}.{driver % 1000 // 10}"


def _kernel(device: str) -> str:
    import numpy as np
    import torch

    from lim_gpu.similarity.cuda.hash import hamming_matrix
    from lim_gpu.similarity.hash import hamming_matrix as cpu_hamming_matrix

    hashes = np.random.default_rng(0).integers(0, 2**63, 33, dtype=np.uint64)
    on_gpu = torch.from_numpy(hashes.view(np.int64)).to(device if device.startswith("cuda") else "cuda")
    if not (hamming_matrix(on_gpu).cpu().numpy() == cpu_hamming_matrix(hashes)).all():
        raise RuntimeError("the Hamming kernel gave wrong distances")
    return "compiled and run; its result equals the CPU's"


def _decoders() -> Iterator[Check]:
    """One line for each compressed transfer syntax that cannot be decoded, or one that all can."""
    try:
        import pydicom  # noqa: F401

        from lim_gpu.ingest.pixels import missing_decoder
        from lim_gpu.ingest.syntaxes import COMPRESSED
    except ModuleNotFoundError as error:
        yield Check("decoders", ABSENT, f"{error.name} is not installed, no DICOM is read", f"pip install {error.name}")
        return
    missing = {how.name: remedy for uid, how in COMPRESSED.items() if (remedy := missing_decoder(uid, 16))}
    if not missing:
        yield Check("decoders", OK, "every supported transfer syntax")
    for name, remedy in missing.items():
        yield Check("decoders", ABSENT, f"{name} cannot be decoded", remedy)
