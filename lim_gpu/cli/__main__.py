"""`python -m lim_gpu.cli`, as torchrun starts it."""

from lim_gpu.cli import main

main()
