"""Shutdown of a training on several processes.

A thread of gloo lets go of the tensors of a collective only after the collective has returned. For
a tensor that Python has seen this takes the GIL, and a thread that asks for the GIL while the
interpreter shuts down is ended by `pthread_exit` (before Python 3.14). Here that unwinds a
destructor, and C++ aborts the process: "terminate called without an active exception". So the
threads are joined before shutdown.
"""

import gc
import sys
from types import FunctionType
from typing import Any

import torch
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel


def end_process_group() -> None:
    """Destroy the process group and join its threads; the last thing a process does with it.

    The threads belong to the group and are joined when its last reference goes. So every other
    reference goes first: those of wrapped models, wherever these are held; of the frames of an
    error; and of functions that were defined with the group as a default, as all of
    `torch.distributed.nn.functional` are where it is imported once there is a group (by the first
    model that is wrapped).
    """
    if not torch.distributed.is_initialized():
        return
    sys.last_value = sys.last_traceback = None
    for candidate in gc.get_objects():
        if type(candidate) is FunctionType and _holds_group(candidate.__defaults__):
            candidate.__defaults__ = None
        elif issubclass(type(candidate), DistributedDataParallel):
            for name in ("reducer", "logger", "process_group"):
                candidate.__dict__.pop(name, None)
    gc.collect()
    torch.distributed.destroy_process_group()


def _holds_group(defaults: tuple[Any, ...] | None) -> bool:
    return any(isinstance(default, ProcessGroup) for default in defaults or ())
