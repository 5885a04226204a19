"""Which slices go: rankings and rules as pure functions of a matrix or of hashes, on the CPU and on a GPU."""
