"""The command line `lim-gpu`, one verb a stage."""

from lim_gpu.cli.program import cli as cli
from lim_gpu.cli.program import main as main
