"""The real classification sets, where they lie beside the checkout: read, decoded and split as published."""

from __future__ import annotations

import numpy as np
import pytest

from lim_gpu.finetune.splits import make_splits
from lim_gpu.labelled.images import load_images
from lim_gpu.labelled.table import read_table
from lim_gpu.progress import Reporter

pytestmark = pytest.mark.real
QUIET = Reporter(quiet=True)


def real(request, name):
    folder = request.config.rootpath / "../shared/data/classification" / name
    if not folder.is_dir():
        pytest.skip(f"the real images of {name} are not on this machine")
    return read_table(folder)


def test_covid_ct_has_its_published_split_and_every_image_is_read(request):
    table = real(request, "covid-ct")
    assert table.classes == ("covid", "noncovid")
    images = load_images(table, 64, "bilinear", QUIET)
    assert images.pixels.shape == (746, 3, 64, 64)  # some have colour
    (split,) = make_splits(table, 1, None, 0, table.groups(images.digests))
    sizes = [table.counts(part) for part in (split.train, split.val, split.test)]
    assert [list(size.values()) for size in sizes] == [[191, 234], [60, 58], [98, 105]]


def test_head_ct_keeps_the_image_that_is_there_twice_on_one_side(request):
    table = real(request, "head-ct")
    images = load_images(table, 64, "bilinear", QUIET)
    twins = [table.files.index(f"images/{number}.png") for number in (188, 189)]
    assert images.digests[twins[0]] == images.digests[twins[1]]
    for seed in range(5):
        splits = make_splits(table, None, 5, seed, table.groups(images.digests))
        assert sorted(np.concatenate([split.test for split in splits])) == list(range(200))
        for split in splits:
            assert sum(bool(set(twins) & set(part.tolist())) for part in (split.train, split.val, split.test)) == 1
