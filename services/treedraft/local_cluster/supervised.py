"""Runs one service as a child that does not outlive its parent.

`python -m treedraft.local_cluster.supervised target` is `python -m
treedraft.target`, except that on Linux the kernel ends the process when the
one that started it dies, even by SIGKILL: a cluster on a laptop must not leave
processes behind that hold memory and cores. An error of the domain ends it
with one line instead of a traceback.
"""

import ctypes
import os
import runpy
import signal
import sys

from treedraft.core.errors import TreedraftError

_PR_SET_PDEATHSIG = 1
_ROLES = ("coordinator", "draft", "target")


def end_with_parent(parent_id: int) -> None:
    """Ask the kernel for SIGTERM at the parent's death; elsewhere do nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_id:  # it died before we asked
        sys.exit(1)


def main() -> None:
    """Run the service named by the first argument; the second is the parent's id."""
    role, parent_id = sys.argv[1], int(sys.argv[2])
    if role not in _ROLES:
        sys.exit(f"no service is called {role}")
    end_with_parent(parent_id)
    sys.argv = [f"treedraft.{role}"]
    try:
        runpy.run_module(f"treedraft.{role}", run_name="__main__", alter_sys=True)
    except TreedraftError as error:
        # The last line of the log is what the one who started it shows.
        sys.exit(f"{error.message} ({error.reason})")


if __name__ == "__main__":
    main()
