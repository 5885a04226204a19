"""What is asked of a reduction, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lim_gpu.errors import UsageError, unknown
from lim_gpu.pruning.checks import check_rule, checked_threshold
from lim_gpu.pruning.ranking import count_to_keep
from lim_gpu.reduction.criterion import Criterion

BASELINES = ("all", "every-n", "random")
SIMILARITIES = ("ssim", "mi", "deepnet", "hash")
METHODS = BASELINES + SIMILARITIES
SCOPES = ("volume", "patient", "dataset")
ORDERS = ("spatial", "lexicographic")
HASH_BITS = 64
SCALES = {"ssim": "SSIM", "mi": "NMI", "deepnet": "cosine", "hash": "bits apart"}  # as a person is shown values
# Threshold of each method in its own unit: the lowest and highest that means anything (design of the definitions).
THRESHOLD_RANGE = {"ssim": (-1, 1), "mi": (1, 2), "deepnet": (-1, 1), "hash": (0, HASH_BITS)}
PAPER_HASH_THRESHOLD = 6  # bits: HASH-6, the best of Wolf et al. 2024
AUTO = "auto"  # a threshold that is found from the data
ALGORITHM = 4  # raised when a change of this program changes a result, so that older parts are not used again


@dataclass(frozen=True)
class Request:
    """What is asked of `reduce`, checked. `threshold` is in the method's own unit (HASH: bits).

    Raises UsageError for a combination that contradicts itself.
    """

    criterion: Criterion
    keep: float | None = None
    keep_count: int | None = None
    threshold: float | None = None
    scope: str = "volume"
    rule: str = "greedy"
    order: str = "spatial"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("scope", self.scope, SCOPES),
            ("order", self.order, ORDERS),
        ):
            if value not in known:
                raise unknown(f"`{name}`", value, known)
        unsaid = self.keep is None and self.keep_count is None and self.threshold is None
        if self.method == "hash" and unsaid and self.rule != "facility":  # which takes no threshold
            object.__setattr__(self, "threshold", PAPER_HASH_THRESHOLD)
        count_to_keep(1, self.keep, self.keep_count)
        if self.seed < 0:
            raise UsageError(f"`seed` {self.seed} is negative. Give 0 or more")
        if self.method in BASELINES:
            self._check_baseline()
        else:
            check_rule(self.rule, self.keep, self.keep_count, self.threshold)
            self._check_threshold()

    @property
    def method(self) -> str:
        """Its name on the command line."""
        return self.criterion.method

    @property
    def is_whole(self) -> bool:
        """Whether it is HASH of a whole data set: volumes are hashed one by one, and then compared together."""
        return self.method == "hash" and self.scope == "dataset"

    @property
    def similarity_threshold(self) -> float | None:
        """The threshold as a similarity: 1 - bits/64 for HASH (exact in float64), else as given."""
        if self.threshold is None or self.method != "hash":
            return self.threshold
        return 1 - self.threshold / HASH_BITS

    def in_own_unit(self, similarity: float) -> float:
        """A similarity in the unit of the method's threshold: bits for HASH."""
        return float(in_own_unit(self.method, similarity))

    def parameters(self) -> dict[str, Any]:
        """All that changes the result; nothing that does not (device, paths)."""
        values: dict[str, Any] = {"method": self.method, "scope": self.scope}
        if self.method != "all":
            values |= {"keep": self.keep, "keep_count": self.keep_count}
        if self.method == "random":
            values["seed"] = self.seed
        if self.method in SIMILARITIES:
            values |= {"threshold": self.threshold, "rule": self.rule, "order": self.order}
            values |= self.criterion.parameters()
        return values

    def _check_baseline(self) -> None:
        if self.threshold is not None:
            raise UsageError(f"method {self.method} compares nothing and takes no `threshold`. Leave it out")
        if self.rule != "greedy" or self.order != "spatial":
            raise UsageError(f"method {self.method} compares nothing and takes no `rule` or `order`. Leave them out")
        budget = self.keep is not None or self.keep_count is not None
        if self.method == "all" and budget:
            raise UsageError("method all keeps every slice and takes no budget. Use every-n or random for a budget")
        if self.method != "all" and not budget:
            raise UsageError(f"method {self.method} needs `keep` or `keep_count`. Give one of them")

    def _check_threshold(self) -> None:
        if self.threshold is None:
            return
        low, high = THRESHOLD_RANGE[self.method]
        if not low <= checked_threshold(self.threshold) <= high:
            unit = "bits" if self.method == "hash" else "similarity"
            raise UsageError(
                f"`threshold` {self.threshold:g} of {self.method} is outside {low}..{high} ({unit}). Give one within"
            )
        if self.method == "hash" and 0 < self.threshold < 1:
            raise UsageError(
                f"`threshold` {self.threshold:g} of hash is in bits, not a similarity. Give a whole number"
            )


def request_for(criterion: Criterion, *, threshold: float | str | None = None, **asked: Any) -> tuple[Request, bool]:
    """What is asked, and whether the threshold is AUTO and has yet to be found.

    asked: the other fields of `Request`. Until the threshold is found the lowest of the method stands for it, so that
    everything else is checked at once. Raises UsageError as `Request`, and for a text that is not AUTO.
    """
    if threshold != AUTO:
        if isinstance(threshold, str):
            raise UsageError(f"`threshold` {threshold!r} is no number. Give one in the method's own unit, or {AUTO!r}")
        return Request(criterion, threshold=threshold, **asked), False
    if criterion.method not in SIMILARITIES:
        raise UsageError(f"method {criterion.method} compares nothing and takes no `threshold`. Leave it out")
    return Request(criterion, threshold=THRESHOLD_RANGE[criterion.method][0], **asked), True


def in_own_unit(method: str, similarities: Any) -> Any:
    """Similarities, a number or an array, in the unit of the method's threshold: bits for HASH."""
    return HASH_BITS * (1 - similarities) if method == "hash" else similarities
