"""Tests that need hosts: a package, so that all its files share one cluster, which ends with the last."""
