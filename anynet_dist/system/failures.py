"""The first failure among the processes of a run, in a file for whoever started them.

A failing rank takes the others down, and their errors bury its own. So each writes its error into the file
that ANYNET_FAILURE_FILE names, and only the first finds none there.
"""

from __future__ import annotations

import os
import socket
import traceback

from anynet_dist.system import distributed
from anynet_dist.system.redaction import redact


def note_failure(error: BaseException, exit_code: int, with_traceback: bool) -> None:
    """Write the error into the file, if one is asked for and no other process has done so before."""
    target = os.environ.get("ANYNET_FAILURE_FILE")
    if not target:
        return
    text = "".join(traceback.format_exception(error)) if with_traceback else f"{error}\n"
    where = f"rank {distributed.rank()} on {socket.gethostname()}"
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(f"{where} ended with exit code {exit_code}\n{redact(text)}")
    except OSError:  # another was first, or the folder is not there; the error is printed in any case
        return
