"""Lists of pictures: what is read, and what is wrong with others in one line."""

from __future__ import annotations

import pytest

from lim_gpu.errors import InputError
from lim_gpu.labelled.listed import read_list


def written(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_by_column(tmp_path):
    text = '\ufefffile,label,note\r\na.png,x,"one, two"\r\nb.png,y\r\n'
    assert read_list(written(tmp_path, text), ("file", "label")) == [
        {"file": "a.png", "label": "x", "note": "one, two"},
        {"file": "b.png", "label": "y", "note": ""},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column file, label. Give file,label in its first line$"),
        ("file,finding\na.png,x\n", "has no column label. "),
        ("file,label\n", "lists no picture. "),
        ("file,label\na.png,x\n,y\n", "line 3 has no file. "),
        ("file,label\na.png\n", "line 2 has no label. "),
        ("file,label\na,b.png,x\n", "line 2 has too many columns. "),
        ('file,label\n"a.png"b,x\n', "not a CSV file in UTF-8"),
        (b"\xff\xfe\x00", "not a CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as error:
        read_list(path, ("file", "label"))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="none.csv: cannot be read: No such file"):
        read_list(tmp_path / "none.csv", ["file"])
