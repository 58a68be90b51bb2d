"""How a service's process ends."""

import subprocess
import sys

_LEAVES = """
import atexit
from treedraft.rpc.process import leave

class Late:
    def __del__(self):
        print("taken apart")

late = Late()
atexit.register(print, "at exit")
print("done", end=", ")
leave()
"""


def test_a_process_that_leaves_has_said_all_and_is_not_taken_apart():
    ended = subprocess.run(
        [sys.executable, "-c", _LEAVES], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done, at exit\n", "")
