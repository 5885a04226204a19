"""A plugin for --setup-only: tests for a GPU are set up where there is none, so that fixtures show what they need."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.own_markers = [mark for mark in item.own_markers if mark.kwargs.get("reason") != "no NVIDIA GPU"]
