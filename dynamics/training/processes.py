"""The end of a training on several processes.

A thread of gloo lets go of the tensors of a collective only after the collective has returned. For
a tensor that Python has seen this takes the GIL, and a thread that asks for the GIL while the
interpreter shuts down is ended by `pthread_exit` (before Python 3.14). Here that unwinds a
destructor, and C++ aborts the process: "terminate called without an active exception". So the
threads are joined before.
"""

import gc
import sys

import torch
from torch.nn.parallel import DistributedDataParallel


def end_process_group() -> None:
    """Destroy the process group and join its threads; the last thing a process does with it.

    The threads belong to the group, and whoever drops it last joins them: holding the GIL, for
    which they may wait, unless that is `destroy_process_group`. So every other reference goes
    first: those of wrapped models, wherever these are held, and of the frames of an error.
    """
    if not torch.distributed.is_initialized():
        return
    sys.last_value = sys.last_traceback = None
    for candidate in gc.get_objects():
        if issubclass(type(candidate), DistributedDataParallel):
            for name in ("reducer", "logger", "process_group"):
                candidate.__dict__.pop(name, None)
    gc.collect()
    torch.distributed.destroy_process_group()
