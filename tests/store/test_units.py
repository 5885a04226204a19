"""Windows in HU and the values that a store holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lim_gpu.errors import UsageError
from lim_gpu.intensity import Intensity
from lim_gpu.store.units import check_limits, intensities, intensities_in_words
from lim_gpu.store.volume import VolumeEntry

LUNG = Intensity.parse(window="lung")


def entry(dtype: str, modality: str) -> VolumeEntry:
    return VolumeEntry("0" * 16, "f" * 16, "", (1, 2, 3), dtype, modality, "digest")


HU, MR, PET, PICTURE, GREY = (
    entry(dtype, modality)
    for dtype, modality in (("int16", "CT"), ("int16", "MR"), ("int16", "PT"), ("int16", ""), ("uint8", ""))
)


@pytest.mark.parametrize("intensity", [LUNG, Intensity.parse(hu_range="-1000:400")])
@pytest.mark.parametrize(
    ("volumes", "text"),
    [
        (
            [MR],
            r"s: no HU in 1 volume \(MR\). Leave `window`, `hu_range` and `body` out, or give `intensity` vol\S+$",
        ),
        ([HU, PET, MR, MR], r"no HU in 3 volumes \(MR, PT\)"),
        (
            [HU, PICTURE],
            r"\(no modality\).*or give `lim-gpu ingest --assume-hu` where 16-bit pictures hold",
        ),
    ],
)
def test_limits_in_hu_on_other_values_are_refused_with_the_remedy(volumes, text, intensity):
    with pytest.raises(UsageError, match=text):
        check_limits(Path("s"), volumes, intensity)
    assert check_limits(Path("s"), volumes, Intensity()) == ""


def test_grey_values_stay_as_they_are_and_that_is_said():
    assert check_limits(Path("s"), [HU, HU], LUNG) == ""
    assert check_limits(Path("s"), [HU, GREY], LUNG).startswith("grey values, not HU, in 1 volume:")


def test_what_was_done_to_which_volumes_is_told_where_it_differs():
    how = Intensity.parse(window="lung", body=True)
    one, two, grey = (replace(volume, key=key * 16) for volume, key in ((HU, "1"), (HU, "2"), (GREY, "3")))
    assert intensities([one, two], how) == []
    assert intensities([one, grey, two], how) == [
        how.describe() | {"volumes": ["1" * 16, "2" * 16]},
        {"mapping": "as stored", "volumes": ["3" * 16]},
    ]
    assert intensities([grey], Intensity()) == [{"mapping": "as stored", "volumes": ["3" * 16]}]


def test_the_same_in_words():
    assert intensities_in_words([HU], LUNG) == "slices from -1150 to 350 HU"
    assert intensities_in_words([HU, GREY], LUNG) == "slices from -1150 to 350 HU; 8-bit volumes as they are"
    assert intensities_in_words([GREY], LUNG) == "grey values as they are"
