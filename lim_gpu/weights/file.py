"""A checkpoint as a file: hashed and read through one opening, without running what it holds unless that is trusted."""

from __future__ import annotations

import hashlib
import os
import pickle
import pickletools
import warnings
from collections.abc import Iterator
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from lim_gpu.errors import InputError, unreadable

SAVED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")  # how torch.save begins: a zip; pickles, before 1.6

FIRST = 9  # bytes that tell


class CheckpointFile:
    """What torch.save or safetensors wrote at `path`, opened once.

    So `sha256` is of the bytes that `read` reads, though a training that goes on may put a newer last.ckpt there
    meanwhile. trust: unpickle what is not tensors too, which runs what the file says. Raises InputError for a file that
    cannot be read.
    """

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        self.path, self.trust = path, trust
        if path.is_dir() and (checkpoint := checkpoint_in(path)):
            raise InputError(f"{path}: is a run. Give {checkpoint}")
        try:
            self._file: BufferedReader = open(path, "rb")  # noqa: SIM115  (closed by __exit__)
        except OSError as error:
            raise unreadable(path, error) from None

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @cached_property
    def sha256(self) -> str:
        """Hex, of the whole file."""
        try:
            self._file.seek(0)
            return hashlib.file_digest(self._file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(self.path, error) from None

    def read(self) -> dict[str, Any]:
        """What the file holds, on the CPU.

        Raises InputError for a damaged file, and for one that would run code when it is not trusted: it names what.
        """
        if os.fstat(self._file.fileno()).st_size >= FIRST:  # a shorter one was cut
            self.check_kind()
        try:
            content = self._content()
        except Exception as error:  # a damaged file raises nearly anything: OSError, RuntimeError, EOFError, KeyError
            raise self._explained(error) from None
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise InputError(f"{self.path}: holds a {kind}, not a state_dict. Save model.state_dict()")
        return content

    def check_kind(self) -> None:
        """Raise InputError for what neither torch.save nor safetensors wrote, by its first bytes. Loads no torch."""
        try:
            self._file.seek(0)
            first = self._file.read(FIRST)
        except OSError as error:
            raise unreadable(self.path, error) from None
        known = first[8:] == b"{" if self.path.suffix == ".safetensors" else first.startswith(SAVED)
        if not known:
            raise InputError(f"{self.path}: is no checkpoint, which torch.save or safetensors writes. Give one")

    def _content(self) -> Any:
        import torch

        self._file.seek(0)
        if self.path.suffix == ".safetensors":
            from safetensors.torch import load

            return load(self._file.read())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on TorchScript and old pickles: what matters is said here
            return torch.load(self._file, map_location="cpu", weights_only=not self.trust)

    def _explained(self, error: Exception) -> InputError:
        if not self.trust and isinstance(error, pickle.UnpicklingError) and (runs := self.unsafe_globals()):
            return InputError(
                f"{self.path}: is more than tensors: reading it would run {', '.join(runs)}. "
                "Give --trust only if you trust who made the file"
            )
        if self.trust and isinstance(error, ImportError | AttributeError):
            return InputError(
                f"{self.path}: names what is not installed ({error}). Install the library it was made with"
            )
        return InputError(f"{self.path}: cannot be read as a checkpoint ({_cause(error)}). Copy it again")

    def unsafe_globals(self) -> list[str]:
        """Functions and classes that unpickling the file would call, beyond torch's own safe ones. Runs nothing."""
        from torch.serialization import get_unsafe_globals_in_checkpoint

        self._file.seek(0)
        try:
            return sorted(get_unsafe_globals_in_checkpoint(self._file))
        except Exception:  # not the zip that torch writes since 1.6: several pickles one after the other
            self._file.seek(0)
            safe = ("torch.", "collections.OrderedDict")
            return sorted({name for name in _pickled_globals(self._file) if not name.startswith(safe)})


def checkpoint_in(run: Path) -> Path | None:
    """The checkpoint of a run of pretrain or finetune: the last, or the first of the chosen ones."""
    return next((path for path in (run / "last.ckpt", *sorted(run.glob("runs/*/*/best.ckpt"))) if path.is_file()), None)


def _pickled_globals(file: BinaryIO) -> Iterator[str]:
    """The names of globals in a file of pickles, read without unpickling, up to where the pickles end."""
    try:
        while True:
            texts: list[str] = []
            for code, argument, _place in pickletools.genops(file):
                if code.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif code.name == "STACK_GLOBAL":
                    yield ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # the raw numbers behind the last pickle
        return


def _cause(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch tells of its weights_only over many lines
        return "not what torch.save wrote"
    return f"{type(error).__name__}: {error}".split("\n", 1)[0].strip()[:160]
