"""A process that reads files of patients says nothing of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import warnings
from functools import cache


@cache
def silence() -> None:
    """Keep this process quiet: warnings and log lines of pydicom quote tag values, which may name a patient.

    In a child process stderr is closed as well: codecs write to it. Errors travel as exceptions.
    """
    if multiprocessing.parent_process() is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").addHandler(logging.NullHandler())
    logging.getLogger("pydicom").propagate = False
