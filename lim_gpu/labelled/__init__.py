"""Labelled images: the table of a data set, and its pixels."""
