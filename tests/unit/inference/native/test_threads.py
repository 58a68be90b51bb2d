"""Threads of a pass run on cores of their own, and stay free to go anywhere."""

import os
import threading

import pytest
import torch
from tests.unit.inference.native.test_native_growth import HOMES, TEXTS, runner_of
from tests.unit.inference.tiny_models import tiny_model
from tests.unit.inference.tiny_segments import chunk

from treedraft.inference.native.compiler import find_compiler

pytestmark = [
    pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler"),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here"),
]


def run_passes(cores, found):
    """Run passes by two threads that were both put on one core, then allowed all."""
    os.sched_setaffinity(0, {min(cores)})  # of this thread, and of those it starts
    torch.set_num_threads(2)
    before = set(os.listdir("/proc/self/task"))
    runner = runner_of(tiny_model())
    logits = [runner.forward([chunk(TEXTS[0], HOMES[0], 0, 5)])]
    helpers = [int(task) for task in set(os.listdir("/proc/self/task")) - before]
    for helper in helpers:
        os.sched_setaffinity(helper, cores)
    logits.extend(runner.forward([chunk(TEXTS[0], HOMES[0], 0, 5)]) for _ in range(20))
    found.append((list(map(os.sched_getaffinity, helpers)), os.sched_getaffinity(0), logits))


def test_a_thread_that_moves_off_its_callers_core_keeps_what_it_may_use():
    cores, found = os.sched_getaffinity(0), []
    before = torch.get_num_threads()
    thread = threading.Thread(target=run_passes, args=(cores, found))
    thread.start()
    thread.join(300)
    torch.set_num_threads(before)
    ((helpers, caller, logits),) = found
    assert helpers
    assert all(helper == cores for helper in helpers)
    assert caller == {min(cores)}
    assert all(torch.equal(one, logits[0]) for one in logits)
