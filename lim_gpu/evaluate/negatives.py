"""What many slices may harm by, tried without leaving one out: of MoCo, negatives that look like the query."""

from __future__ import annotations

from typing import Any, NamedTuple


class Negatives(NamedTuple):
    """A title for people, and the settings of `lim_gpu.pretrain` beside those of the arm that hides none."""

    title: str
    settings: dict[str, Any]


HASH_BITS = 6  # at which the claim reduces, so that what is dropped there is hidden here
NEGATIVES = {
    "volume-hidden": Negatives("negatives of the volume hidden", {"moco.mask_same_volume": True}),
    "alike-hidden": Negatives("alike negatives hidden", {"moco.mask_hash_bits": HASH_BITS}),
    "alike-softened": Negatives("alike negatives softened", {"moco.soft_hash_bits": float(HASH_BITS)}),
}
