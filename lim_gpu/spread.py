"""A few of many, evenly: what a picture, a report or a sample shows of a data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread_evenly(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` different places of 0 .. n - 1, ascending, as evenly as whole numbers allow.

    Of two or more, the first is 0 and the last n - 1. `lim_gpu.pruning.rules.every_n` is another rule: it leaves as
    much room behind its last slice as between two.
    """
    return np.linspace(0, n - 1, min(most, n)).round().astype(np.int64)
