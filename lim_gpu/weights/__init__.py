"""Backbones, and every layout of checkpoint that they are read from and written to."""
