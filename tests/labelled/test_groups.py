"""Groups of images that are alike: read as `lim-gpu leaks --clusters` writes them, and never torn apart by a split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lim_gpu.errors import InputError
from lim_gpu.labelled.groups import read_groups
from lim_gpu.labelled.table import read_table

FILES = ("a.png", "b.png", "c.png", "d.png")


def test_an_image_of_no_group_stands_alone(tmp_path):
    (tmp_path / "groups.csv").write_text(
        "cluster,keep,image,collection,split,label\n1,1,b.png,x,,\n1,0,d.png,x,,\n2,1,other.png,y,,\n"
    )
    assert read_groups(tmp_path / "groups.csv", FILES) == (0, "1", 2, "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster,file\n1,a.png\n2,a.png\n", "a.png is in the groups 1 and 2. Put it into one"),
        (
            "cluster,file\n1,x.png\n1,y.png\n",
            "names none of the images, such as a.png. Give the groups",
        ),
        ("cluster,keep\n1,1\n", "line 2 has no image. Give cluster,image in its first line"),
        ("file,keep\na.png,1\n", "has no column cluster. Give cluster in its first line"),
    ],
)
def test_another_list_is_one_line(tmp_path, text, message):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(InputError, match=rf"groups\.csv: {message}"):
        read_groups(tmp_path / "groups.csv", FILES)


def test_no_group_is_any_group(tmp_path):
    """As leaks writes where nothing is alike."""
    (tmp_path / "groups.csv").write_text("cluster,keep,image,collection,split,label\n")
    assert read_groups(tmp_path / "groups.csv", FILES) == (0, 1, 2, 3)


def test_groups_join_what_patients_join_and_change_the_fingerprint(make_folder):
    table = read_table(
        make_folder([{"file": f"{n}.png", "label": str(n % 2), "patient": str(n // 2)} for n in range(8)])
    )
    joined = replace(table, alike=(0, "x", "x", *range(3, 8)))
    assert np.unique(table.groups(), return_counts=True)[1].tolist() == [2, 2, 2, 2]
    assert np.unique(joined.groups(), return_counts=True)[1].tolist() == [4, 2, 2]
    assert joined.fingerprint() != table.fingerprint()
