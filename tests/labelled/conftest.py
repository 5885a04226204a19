"""Labelled procedural images."""

from labelled_folders import draw as draw
from labelled_folders import make_folder as make_folder
from labelled_folders import two_classes as two_classes
