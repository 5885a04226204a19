"""Kernels on the CPU by emulation, and on a GPU where there is one."""

from kernel_engines import engine as engine
