"""How the texts of the command line become what a stage is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lim_gpu.cli import command
from lim_gpu.cli.options import (
    METHOD,
    PATH,
    criterion_of,
    finetuning_request,
    intensity_of,
    one_folder,
    parse_overrides,
    pretraining_options,
)
from lim_gpu.cli.program import cli
from lim_gpu.errors import UsageError, as_options
from lim_gpu.intensity import Intensity


def test_set_options():
    assert parse_overrides(["lr=0.1", "swav.queue = 64"]) == {"lr": "0.1", "swav.queue": "64"}
    for texts, message in ((["lr"], "is not NAME=VALUE"), (["=1"], "is not NAME=VALUE"), (["a=1", "a=2"], "twice")):
        with pytest.raises(UsageError, match=message):
            parse_overrides(texts)


def test_the_body_is_part_of_the_intensity():
    options = {"intensity": "slice-minmax", "window": "lung", "hu_range": None, "body": True, "keep": 0.1}
    assert intensity_of(options) == Intensity.parse(window="lung", body=True)
    assert options == {"keep": 0.1}


def test_pretraining_takes_an_intensity_and_a_mapping():
    options = {"window": "lung", "hu_range": None, "overrides": ("lr=0.1",), "epochs": 3}
    expected = {"intensity": Intensity.parse(window="lung"), "overrides": {"lr": "0.1"}, "epochs": 3}
    assert pretraining_options(options) == expected
    with pytest.raises(UsageError, match="`window` and `hu_range` exclude each other"):
        pretraining_options({"window": "lung", "hu_range": "0:1", "overrides": ()})


FINETUNE = {"protocol": "wolf2024-code", "epochs": None, "head_epochs": 2, "batch_size": None, "lr": 1e-3, "size": None}
FINETUNE |= {"precision": None}


@pytest.mark.parametrize(
    ("data", "flip", "expected"),
    [("organ.npz", None, False), ("organ.npz", True, True), ("covid", None, True), ("covid", False, False)],
)
def test_finetuning_mirrors_unless_the_images_are_medmnists_or_it_is_said(data, flip, expected):
    options = FINETUNE | {"data": Path(data), "flip": flip, "checkpoints": (), "runs": 2}
    request = finetuning_request(options, seed=4)
    assert request.protocol.flip is expected
    assert (request.data, request.runs, request.seed) == (Path(data), 2, 4)
    assert (request.protocol.epochs, request.protocol.head_epochs) == (70, 2)
    assert (request.protocol.lr, request.protocol.later_lr) == (1e-3, pytest.approx(2e-4))


def test_a_tilde_is_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert PATH.convert("~/slices", None, None) == tmp_path / "slices"
    assert PATH.convert("x/~y", None, None) == Path("x/~y")
    paths = [p for verb in cli.commands.values() for p in verb.params if isinstance(p.type, type(PATH).__mro__[1])]
    assert len(paths) > 30
    assert all(isinstance(parameter.type, type(PATH)) for parameter in paths)
    (tmp_path / "run.toml").write_text('output = "~/mine.csv"\n')
    context = cli.commands["leaks"].make_context("leaks", ["a", "--config", "~/run.toml"])
    assert context.params["output"] == tmp_path / "mine.csv"


@pytest.mark.parametrize(("text", "name"), [("SSIM", "ssim"), ("Every-N", "every-n"), ("hash", "hash")])
def test_capitals_do_not_matter(text, name):
    assert METHOD.convert(text, None, None) == name


def test_modalities_and_scopes_have_their_own_capitals():
    parse = {name: {p.name: p.type for p in cli.commands[name].params} for name in ("ingest", "reduce", "pretrain")}
    assert parse["ingest"]["modality"].convert("mr", None, None) == "MR"
    assert parse["ingest"]["modality"].convert("Any", None, None) == "any"
    assert parse["reduce"]["scope"].convert("Volume", None, None) == "volume"
    assert parse["pretrain"]["method"].convert("SwAV", None, None) == "swav"
    with pytest.raises(UsageError, match=r"'wolf2024' is unknown. Did you mean wolf2024-"):
        parse["pretrain"]["preset"].convert("wolf2024", None, None)
    assert [item.value for item in METHOD.shell_complete(None, None, "s")] == ["ssim"]  # type: ignore[arg-type]


GIVEN = {"bins": None, "features": None, "weights": None, "precision": None, "window": None, "hu_range": None}


@pytest.mark.parametrize(
    ("method", "given", "word"),
    [
        ("ssim", {"bins": 64}, "--bins belongs to mi, not to ssim"),
        ("hash", {"features": "pooled"}, "--features belongs to deepnet"),
        ("mi", {"precision": "bfloat16"}, "--precision belongs to deepnet"),
        ("random", {"hu_range": "0:1"}, "--hu-range belongs to what compares, not to random"),
        ("every-n", {"body": True}, "--body belongs to what compares, not to every-n"),
        ("all", {"intensity": "volume-percentile"}, "--intensity belongs to what compares, not to all"),
    ],
)
def test_an_option_that_the_method_does_not_use_is_refused(method, given, word):
    with pytest.raises(UsageError, match=word):
        criterion_of({"method": method} | GIVEN | given)


def test_options_that_are_not_given_keep_their_defaults():
    found = criterion_of({"method": "mi"} | GIVEN | {"window": "lung"})
    assert (found.bins, found.features, found.precision) == (100, "logits", "float32")


def test_messages_are_in_the_words_of_where_one_is():
    assert as_options("give `keep`, `keep_count` or x_y") == "give --keep, --keep-count or x_y"


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("similarity", "Run the same command again"),
        ("reduce", "again to go on"),
        ("pretrain", "again with --resume to"),
    ],
)
def test_what_is_said_of_an_interruption_is_what_the_verb_can_do(monkeypatch, verb, text):
    monkeypatch.setitem(command._asked, "verb", verb)
    assert text in command._how_to_go_on()
    assert ("go on" in command._how_to_go_on()) == (verb != "similarity")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("demo d", "demo takes no argument: 'd' is too many. Did you mean -o d?"),
        ("reduce s a.csv --method all", "reduce takes [STORE] alone: 'a.csv' is too many. Did you mean -o a.csv?"),
        ("reduce s a.csv --method all -o b.csv", "reduce takes [STORE] alone: 'a.csv' is too many. Leave out"),
        ("info a.csv b.csv c.csv", "info takes FILE alone: 'b.csv' and 1 other are too many. Leave out"),
        ("select a.csv b.csv -o c.csv", "select takes SELECTION alone: 'b.csv' is too many. Leave out"),
        (
            "similarity s v out.npy --method hash",
            "similarity takes STORE VOLUME alone: 'out.npy' is too many. Did you mean -o",
        ),
        ("doctor all", "doctor takes no argument: 'all' is too many. Leave out what is too many, or quote a name"),
    ],
)
def test_an_argument_too_many_is_named_with_what_it_may_have_been_meant_for(arguments, text):
    with pytest.raises(UsageError, match=f"^{re.escape(text)}"):
        cli.main(arguments.split(), standalone_mode=False)


def test_what_the_system_does_not_allow_is_one_line_with_its_cause(capsys):
    error = PermissionError(13, "Permission denied", "/mnt/read-only/demo")
    assert command._fail_otherwise(error) == 3
    assert capsys.readouterr().err == (
        "error: /mnt/read-only/demo: Permission denied. Change its permissions, or choose another place\n"
    )
    assert command._fail_otherwise(KeyError("x")) == 1
    assert "internal: KeyError" in capsys.readouterr().err


def test_one_folder_of_several_options():
    assert one_folder(copy=None, link=Path("b"), list=None) == ("link", Path("b"))
    with pytest.raises(UsageError, match=r"^--copy and --list exclude each other\. Give one of --copy DIR, --list"):
        one_folder(copy=Path("a"), list=Path("b"))
    with pytest.raises(UsageError, match=r"^nothing says where to\. Give one of --copy DIR, --list DIR$"):
        one_folder(copy=None, list=None)
