"""Volumes on disk: one HDF5 file a volume, an index of them, and a private folder that names the sources."""
