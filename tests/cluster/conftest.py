"""Two hosts of a core each, and a third that only shares out, for all files of this folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import lim_gpu
from lim_gpu import cluster
from lim_gpu.cluster import connect
from stores import make_store

TESTS = Path(__file__).parents[1]
NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


class Hosts:
    """A cluster on this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with cluster._own_signals():
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
        self.address = self._cluster.address
        for _ in range(2):
            self._add()

    def mend(self) -> None:
        """Bring back what was killed."""
        for node in list(self._cluster.worker_nodes):
            if node.dead_processes():
                self._cluster.remove_node(node, allow_graceful=False)
                self._add()

    def _add(self) -> None:
        with cluster._own_signals():
            self._cluster.add_node(num_cpus=1, **NODE)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="package")
def hosts():
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(TESTS))  # for the processes of the hosts
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN", "5" * 64)
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Hosts()
    yield made
    made.close()
    patch.undo()


@pytest.fixture(scope="package")
def connected(hosts):
    with connect(hosts.address):
        yield


@pytest.fixture(scope="package")
def slices(tmp_path_factory):
    """A store of four volumes, which no test changes."""
    return make_store(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="package")
def alone(slices, tmp_path_factory):
    """A selection as one process makes it; of a method for which new processes need not load torch."""
    path = tmp_path_factory.mktemp("alone") / "s.csv"
    lim_gpu.reduce(slices, "every-n", keep=0.3, output=path)
    return path
