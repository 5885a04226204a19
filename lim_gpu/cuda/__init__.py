"""How kernels are compiled, checked and launched; the one place that knows CuPy's RawModule."""
