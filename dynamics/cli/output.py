"""Output of the commands: results on standard output, progress on standard error."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any

import typer

from dynamics.progress import OnProgress

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what the command would do and cost, and stop.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def command_line() -> str:
    """Return the command line as it was typed."""
    return shlex.join(["dynamics", *sys.argv[1:]])


def emit(as_json: bool, result: Mapping[str, Any], text: str, lines: Iterable[str] = ()) -> None:
    """Print a result, as JSON or as text; only the first of several processes prints."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(result, indent=2, default=str))
    else:
        print("\n".join([text, *(f"  {line}" for line in lines)]))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows with columns padded to their widest cell; a row of one cell sets no width."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def size(size: int) -> str:
    """Return a number of bytes in three digits with its unit."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:,} bytes"


class Stages:
    """Progress of a command with several stages: a bar on a terminal, else a line per tenth."""

    def __enter__(self) -> "Stages":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._silent = os.environ.get("RANK", "0") != "0"
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=self._silent or not sys.stderr.isatty(),
            transient=True,
        )
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def report(self, message: str) -> None:
        """Print one line about a stage."""
        if not self._silent:
            self._progress.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def counter(self, name: str, received: Callable[[], int] = lambda: 0) -> OnProgress:
        """Return a function that shows how many of a total are done, and the bytes received."""
        task = self._progress.add_task(name, start=False, visible=False, note="")

        def show(done: int, total: int) -> None:
            self._show(task, done, total, name, size(received()) if received() else "")

        return show

    def training(self, total: int) -> Callable[[Mapping[str, Any]], None]:
        """Return a function that shows lines of `train.jsonl`."""
        task = self._progress.add_task("training", start=False, visible=False, note="")

        def show(line: Mapping[str, Any]) -> None:
            note = f"loss {line['loss_nats']:.3f} nats, {line['tokens_per_second']:,.0f} tokens/s"
            self._show(task, line["step"], total, "training", note)

        return show

    def _show(self, task: Any, done: int, total: int, name: str, note: str) -> None:
        if not self._progress.disable:
            self._progress.start_task(task)
            self._progress.update(
                task, completed=done, total=total, visible=done < total, note=note
            )
        elif done and (done == total or done % max(1, total // 10) == 0):
            self.report(f"{time.strftime('%H:%M:%S')} {name} {done} of {total}  {note}".rstrip())
