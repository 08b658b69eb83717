"""The engine of a GPU, run on the CPU, on clusters of blocks of every size, which must not show in its numbers."""

import pytest
from support import toy_data
from support.cuda_trainer_checks import (
    SMALL,
    assert_same_run,
    check_case,
    check_drawn,
    name_of,
    train,
)

CLUSTERS = (5, 8, 16)
WIDER = {"sizes": (80, 300, 50, 5), "count": 9, "epochs": 2}  # W_ih goes through shared memory in parts


def pretend_cluster(host_module, blocks, tf32=False):
    host_module.pretend(4, True, tf32, blocks)


@pytest.mark.parametrize(  # the first size is what the other tests have; the others in turn
    ("case", "blocks"), list(zip(SMALL[:10], CLUSTERS[1:] * 5, strict=True)), ids=[*map(name_of, SMALL[:10])]
)
def test_clusters_of_other_sizes(kind, host_module, case, blocks):
    pretend_cluster(host_module, blocks)
    check_drawn(kind, case)


@pytest.mark.parametrize(
    ("options", "tf32"),
    [
        ({}, False),
        ({"readout": "last_word", "batch_size": 9}, True),
        ({"sizes": (60, 8, 64, 3)}, False),
        ({"sizes": (60, 8, 64, 3)}, True),
        (WIDER, False),
        (WIDER, True),
    ],
    ids=str,
)
def test_the_size_of_a_cluster_changes_no_bit(kind, host_module, unwatched, options, tf32):
    """It is chosen by how many modules are trained at the same time, which must not show."""
    runs = []
    for blocks in CLUSTERS:
        pretend_cluster(host_module, blocks, tf32)
        runs.append(train(f"{kind}-quadrature", **options))
    for run in runs[1:]:
        assert_same_run(run, runs[0])


@pytest.mark.parametrize("blocks", CLUSTERS)
def test_whose_turn_it_is_changes_nothing_in_any_cluster(kind, host_module, blocks):
    runs = []
    for order in ("round_robin", "shuffled"):
        pretend_cluster(host_module, blocks)
        host_module.set_order(order, 3)
        host_module.watch_memory(True)
        runs.append(train(f"{kind}-quadrature", count=11, batch_size=5, readout="last_word", epochs=2))
        host_module.watch_memory(False)
    assert_same_run(*runs)


def test_steps_too_large_for_shared_memory_go_by_the_other_kernel(kind, host_module):
    """200 positions: their gates alone are more than a block's shared memory; and in one epoch with ones that fit."""
    pretend_cluster(host_module, 5)
    ids, lengths, target_probability = toy_data.make_documents(4, 200, range(1, 30))
    for most in (200, 3):  # of one launch after the other
        documents = ids, lengths.clamp(max=most), target_probability
        check_case(kind, (30, 6, 50, 3), documents, 2, readout="last_word", steps=1)
