"""`python -m lim_gpu`: the command line."""

from lim_gpu.cli import main

main()
