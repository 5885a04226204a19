"""A measurement says which code it is of, also where there is no git."""

from __future__ import annotations

import subprocess

import pytest

from bench import machine


@pytest.fixture
def no_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LIM_GPU_COMMIT", raising=False)


@pytest.mark.usefixtures("no_git")
def test_without_git_the_commit_is_unknown_or_given(monkeypatch):
    assert machine._commit() == "unknown"
    monkeypatch.setenv("LIM_GPU_COMMIT", "abc1234")
    assert machine._commit() == "abc1234"


def test_a_copy_without_its_history_is_told_by_the_variable(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("LIM_GPU_COMMIT", "abc1234")
    assert machine._commit() == "abc1234"


def test_git_says_it_where_the_variable_does_not(monkeypatch, tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except FileNotFoundError:
        pytest.skip("no git")
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.delenv("LIM_GPU_COMMIT", raising=False)
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert machine._commit() == head.strip()
    monkeypatch.setenv("LIM_GPU_COMMIT", "other")
    assert machine._commit() == "other"
