"""The numbers to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import text
from bench.results import Results


@dataclass(frozen=True)
class Goal:
    """A number to reach: `least`, or for times and sizes `most`."""

    title: str
    measure: Callable[[Results], float | None]
    show: Callable[[float], str]
    least: float = float("-inf")
    most: float = float("inf")

    def met(self, value: float) -> bool:
        return self.least <= value <= self.most


def times_faster(title: str, job: str, peer: str, device: str, least: float) -> Goal:
    return Goal(title, lambda results: results.faster(job, peer, device), text.times, least)


def _ssim_share(results: Results) -> float | None:
    shares = [limit[0] for row in results.rows("kernels", "ssim") if (limit := results.limit(row))]
    return max(shares, default=None)


def _share_of_alone(job: str, peer: str, device: str) -> Callable[[Results], float | None]:
    """The speed of lim_gpu over that of the network alone."""

    def measure(results: Results) -> float | None:
        ours, alone = results.ours(job, device), results.one("peers", job, peer, device)
        return alone.each / ours.each if ours and alone else None

    return measure


def _whole(table_name: str, job: str, peer: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        row = results.one(table_name, job, peer, "cuda")
        return row.each * (row.total or row.count) if row else None

    return measure


def _memory(table_name: str, job: str, n: int) -> Callable[[Results], float | None]:
    return lambda results: max((r.memory or 0 for r in results.rows(table_name, job, "cuda") if r.n == n), default=None)


def _overlap(device: str) -> Callable[[Results], float | None]:
    """The worst job: the wall time of reduce over the slower of reading and computing."""

    def measure(results: Results) -> float | None:
        ratios = []
        for job in dict.fromkeys(row.job for row in results.rows("pipeline", device=device)):
            alone = [row.each for row in results.rows("pipeline", job, device) if row.peer.endswith("alone")]
            whole = [row.each for row in results.rows("pipeline", job, device) if row.ours]
            ratios += [max(whole) / max(alone)] if alone and whole else []
        return max(ratios, default=None)

    return measure


def sharing(method: str, n: int, most: float) -> Goal:
    """The CPU time of a unit on hosts over that in one process, with what Ray uses meanwhile."""

    def measure(results: Results) -> float | None:
        job = f"reduce, {method}, {n} slices of 256 x 256, CPU of all processes"
        hosts, alone = (results.one("peers", job, f"lim_gpu, {peer}", "cpu") for peer in ("Ray", "one process"))
        return hosts.each / alone.each if hosts and alone else None

    title = f"{method} on hosts, units of {n} slices of 256 x 256: {most:g}x the CPU time of one process"
    return Goal(title, measure, "{:.3f}x".format, most=most)


def _gibibytes(value: float) -> str:
    return text.gibibytes(int(value))


GOALS = (
    times_faster("SSIM, CPU, one thread, n = 40: 70x scikit-image (goal 100x)", "SSIM", "scikit-image", "cpu", 70),
    times_faster("MI, CPU, one thread, n = 40: 15x scikit-image (goal 20x)", "MI, 100 bins", "scikit-image", "cpu", 15),
    times_faster("HASH, CPU, one thread: imagehash's speed", "HASH, hashes", "imagehash", "cpu", 1),
    Goal("reduce, CPU: 1.2x the slower of reading and computing", _overlap("cpu"), "{:.2f}x".format, most=1.2),
    Goal("SSIM, GPU: 60 % of the fp32 limit", _ssim_share, "{:.0%}".format, 0.6),
    times_faster("SSIM, GPU: 10x fused-ssim", "SSIM", "fused-ssim", "cuda", 10),
    times_faster("SSIM, GPU: 100x pytorch-msssim", "SSIM", "pytorch-msssim", "cuda", 100),
    Goal("MI, GPU: all of LIDC in 30 s", _whole("datasets", "LIDC-shaped", "MI"), "{:.3g} s".format, most=30),
    Goal(
        "HASH, GPU: a million hashes, greedy, in 10 s",
        _whole("peers", "HASH, a data set without a matrix, greedy", "lim_gpu"), "{:.3g} s".format, most=10,
    ),
    Goal(
        "HASH, GPU: a million hashes in 1 GB",
        _memory("peers", "HASH, a data set without a matrix, greedy", 1_000_000),
        _gibibytes, most=1e9,
    ),
    Goal(
        "DeepNet, GPU: 80 % of the forward pass alone",
        _share_of_alone("DeepNet", "the forward pass alone", "cuda"), "{:.0%}".format, 0.8,
    ),
    Goal(
        "pre-training, GPU: 90 % of the step alone, on random tensors",
        _share_of_alone("Pre-training, step", "random tensors, the step alone", "cuda"), "{:.0%}".format, 0.9,
    ),
    times_faster(
        "pre-training, GPU: 2x lightly's loader recipe", "Pre-training, step", "lightly's loader, PNG files", "cuda", 2,
    ),
    Goal("5,000 slices, SSIM: 8 GiB", _memory("growth", "SSIM", 5000), _gibibytes, most=8 << 30),
    Goal("reduce, GPU: 1.2x the slower of reading and computing", _overlap("cuda"), "{:.2f}x".format, most=1.2),
    sharing("HASH", 60, 1.2),
    sharing("HASH", 240, 1.05),
    sharing("SSIM", 60, 1.02),
    sharing("SSIM", 240, 1.02),
)  # fmt: skip
