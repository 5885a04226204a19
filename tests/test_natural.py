"""Numbers in names count as numbers."""

from __future__ import annotations

from lim_gpu.natural import natural_key


def test_natural_order():
    texts = ["slice10", "slice9", "slice", "slice9a", "9", "10", "a1b10", "a1b9"]
    assert sorted(texts, key=natural_key) == ["9", "10", "a1b9", "a1b10", "slice", "slice9", "slice9a", "slice10"]
