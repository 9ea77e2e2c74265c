"""Trainings in processes of their own, which kill themselves, run into limits, or are killed.

A fork server imports torch once; each child is a clean process a hundredth of a second later.
"""

import gc
import json
import os
import resource
import signal
import sys

import safetensors.torch
import torch

from dynamics.errors import DynamicsError
from dynamics.training.train import train
from tests.fork_server import fork_server

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "open")


def child(target, *arguments):
    """Start a function of this module in a process of its own."""
    process = fork_server().Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def finish(process):
    """Exit status of a child; that of one ended by a signal is negative."""
    process.join(120)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(settings, folder, moment):
    """Train until `moment`, a kind of event and which of its kind, in this process.

    `("step", n)` is after the update of step n; `("change", n)` is before the n-th time that a file
    or folder is opened for writing, made, renamed or removed; `("weights", n)` and `("state", n)`
    are in the middle of the n-th file of weights, and of the optimizer's state or the like. How
    many of each there were goes into the file `seen` when the training comes to its end.
    """
    gc.freeze()  # or the Trainer's collection copies what the fork server shares
    kind, last = moment
    seen = {"change": 0, "weights": 0, "state": 0}

    def pass_by(event):
        seen[event] += 1
        if event == kind and seen[event] == last:
            die()

    def audit(event, arguments):
        if event == "open" and not set("wax+") & set(arguments[1] or ""):
            return
        # rmtree names what it removes relative to an open folder
        path = str(arguments[0]) if event in CHANGES else "/"
        if path.startswith(str(folder.parent)) or not path.startswith("/"):
            pass_by("change")

    def cut(write, event):
        def write_half(*arguments, **keywords):
            path = next(each for each in arguments if isinstance(each, str | os.PathLike))
            if event == kind and seen[event] + 1 == last:
                write(*arguments, **keywords)
                os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202
            pass_by(event)
            return write(*arguments, **keywords)

        return write_half

    safetensors.torch.serialize_file = cut(safetensors.torch.serialize_file, "weights")
    torch.save = cut(torch.save, "state")
    sys.addaudithook(audit)
    train(settings, folder, on_step=lambda line: moment == ("step", line["step"]) and die())
    (folder.parent / "seen").write_text(json.dumps(seen))


def train_on_a_full_disk(settings, folder, step, bytes_left):
    """From a step on, no file may grow beyond `bytes_left`; the error goes into a file."""

    def fill(line=None):
        if line is None or line["step"] == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, resource.RLIM_INFINITY))

    if step == 0:
        fill()
    try:
        train(settings, folder, on_step=fill)
    except DynamicsError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder.parent / "error").write_text(f"{type(error).__name__}: {error}")
        sys.exit(2)
