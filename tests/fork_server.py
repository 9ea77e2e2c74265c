"""Processes that begin with torch loaded: forked from a server, one for each process of tests.

The server loads its modules when the first child starts, whichever test starts it, so that all
tests must name the same; a child whose module is not loaded would import torch anew.
"""

import multiprocessing
from multiprocessing.context import ForkServerContext


def fork_server() -> ForkServerContext:
    """Return the context of such processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["__main__", "tests.hub.test_tracking", "tests.training.children"]
    )
    return context
