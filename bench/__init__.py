"""The benchmark: `make bench`, `make bench-gpu`; checks, then times. See bench/NOTES.md."""
