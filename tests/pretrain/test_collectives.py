"""Two processes compute what one computes: collectives, Sinkhorn and the queues."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch

from lim_gpu.pretrain import collectives
from lim_gpu.pretrain.swav import Queue, sinkhorn
from two_processes import both, queued, scores, together


@pytest.fixture(scope="module")
def found(preloaded, tmp_path_factory) -> list[dict[str, Any]]:
    return together(preloaded, both, tmp_path_factory.mktemp("ranks"))


def test_collectives(found):
    ranks = [part["collectives"] for part in found]
    rows = [part["rows"] for part in ranks]
    assert [part["world"] for part in ranks] == [(0, 2), (1, 2)]
    for part in ranks:
        assert torch.equal(part["gather"], torch.cat(rows))
        assert torch.equal(part["total"], rows[0] + rows[1])
        assert torch.equal(part["maximum"], torch.maximum(*rows))


def test_processes_that_were_given_other_data_say_so_alike_and_end(found):
    host = socket.gethostname()
    for part in found:
        same, other = part["agreement"]
        assert same == ""
        assert other.startswith(f"process 1 on {host} was given another store than process 0 on {host}. Give all")


def test_one_process_needs_none():
    rows = torch.randn(2, 3, requires_grad=True)
    assert collectives.world() == (0, 1)
    for function in (collectives.gather, collectives.total, collectives.maximum):
        assert torch.equal(function(rows), rows)
        assert not function(rows).requires_grad


def test_codes_are_those_of_all_samples_together(found):
    torch.testing.assert_close(torch.cat([part["swav"]["codes"] for part in found]), sinkhorn(scores(16, 24), 0.05, 3))


def test_the_queue_of_swav_is_whole_everywhere_and_scored_in_shares(found):
    queue = Queue(8, 3)
    for step in range(3):
        queue.push(queued(step))
    for rank, part in enumerate(found):
        assert torch.equal(part["swav"]["queue"], queue.embeddings)
        assert torch.equal(part["swav"]["share"], queue.embeddings[:, rank::2])


def test_the_queue_of_moco_holds_the_keys_of_both(found):
    first, second = (part["moco"] for part in found)
    for name in ("keys", "ids", "volumes"):
        assert torch.equal(first[name], second[name])
    assert first["ids"].tolist() == [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7] + [-1] * 8
    assert first["volumes"].tolist() == [0] * 16 + [-1] * 8
    torch.testing.assert_close(first["keys"][:16].norm(dim=1), torch.ones(16))
    assert first["groups"] == second["groups"] == 2  # of the four: each of two slices, as on one device
    assert first["loss"] != second["loss"]  # each has its own slices
    assert first["negatives"] == second["negatives"] == 6  # of 8 keys one of either process looks like the query


def test_a_codebook_is_the_same_everywhere_and_begins_with_outputs_of_both(found):
    first, second = (part["codebook"] for part in found)
    for name in ("codes", "idle", "counts"):
        assert torch.equal(first[name], second[name])
    assert first["counts"].sum() == 2 * 2 * 4 * 4
    rows = [part["z"].movedim(1, -1).flatten(0, 2).tolist() for part in (first, second)]
    shares = [sum(code in own for code in first["codes"].tolist()) for own in rows]
    assert shares == [4, 4]
