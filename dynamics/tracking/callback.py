"""A callback that takes the measures of `dynamics track` during a transformers.Trainer run."""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler

from dynamics.corpus.counts import Counts, check_tokenizer, read_counts
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.errors import ConfigError, MeasureError, one_line
from dynamics.measure_groups import DEFAULT_GROUPS, measure_groups
from dynamics.runs.measures import is_norm
from dynamics.statistics.correlation import spearman
from dynamics.statistics.vocabulary import parse_rule
from dynamics.steps import parse
from dynamics.tracking.model_tensors import ModelTensors
from dynamics.tracking.training_run import TrainingRun

_log = logging.getLogger(__name__)


class NormDynamicsCallback(TrainerCallback):
    """A Trainer callback that measures both embeddings at scheduled steps and writes a run folder.

    At each of the steps it takes the measures of `dynamics track` from the weights in memory, and
    logs to the trackers of the Trainer the mean of each norm and, with counts, its rank
    correlation with frequency. The folder is what `dynamics track` would write from checkpoints of
    these steps, without exposure; `dynamics.Run` opens it when the training has ended. Weights and
    random numbers are not touched: the training gives the same bits with and without the callback.

    A failed measurement never ends the training. Where a step cannot be measured (the training has
    diverged, the disk is full, the folder is that of another training), one line of warning is
    logged under `dynamics`, measuring stops, and the run is finished with the steps measured so
    far; `stops` in its `run.json` gives the step and the reason.

    The first process measures and writes; the others continue, and wait for it at their next
    exchange of gradients. A training that resumes from a checkpoint also resumes the folder, and
    steps that it repeats are measured again.

    Args:
        output: The run folder; new, or that of the training that is resumed.
        steps: When to measure, in the step language; step 0 (before the first update) and the last
            step always are.
        counts: Token counts of the training corpus, or the path of a `counts.parquet`; None for
            norms alone.
        rule: Vocabulary rule of the main statistics.
        measures: Groups of measures of the weights: `norms` (always), `distances`, `ranks`,
            `readouts`, `spectrum`; or `all`.
        name: Name of the run in figures; the name of its folder when None.

    Raises:
        ConfigError: The rule is malformed, or there is no such group of measures.
        CorpusError: There are no counts at the path.
        StepError: The steps are malformed.

    Example:
        >>> callback = NormDynamicsCallback("runs/x", steps="log2(512)+every(1000)")
        >>> Trainer(model, arguments, callbacks=[callback]).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        output: str | Path,
        *,
        steps: str = "log2(512)+every(1000)",
        counts: Counts | str | Path | None = None,
        rule: str = "count>=10",
        measures: str | Sequence[str] = DEFAULT_GROUPS,
        name: str | None = None,
    ) -> None:
        output = Path(output)
        self._steps = parse(steps)
        self._rule = parse_rule(rule)
        self._counts = (
            counts if counts is None or isinstance(counts, Counts) else read_counts(counts)
        )
        try:
            groups = measure_groups(measures)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._run = TrainingRun(
            output,
            counts=self._counts,
            steps=steps,
            rule=rule,
            measures=groups,
            name=name or output.resolve().name,
        )
        self._due: set[int] = set()
        self._measuring = False
        self._finished = False
        self._report_failed = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        """Claim or resume the folder, and measure the step before the first update."""
        if not state.is_world_process_zero:
            return
        self._measuring, self._finished, self._report_failed = True, False, False
        self._run.record = None  # may be left from an earlier training
        with self._unless_it_fails(state.global_step):
            self._due = set(self._steps.schedule(state.max_steps))
            tensors = ModelTensors(model, state.global_step)
            if tensors.final_norm_note:
                _log.warning("%s", tensors.final_norm_note)
            if self._counts is not None and isinstance(processing_class, PreTrainedTokenizerFast):
                check_tokenizer(self._counts, tokenizer_sha256(processing_class), "the Trainer")
            self._run.begin(tensors)
            measured = self._run.measured
            if not measured or (state.global_step in self._due and measured[-1] < tensors.step):
                self._measure(tensors, args, state, control)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Measure the step when it is due."""
        if self._measuring and state.global_step in self._due:
            with self._unless_it_fails(state.global_step):
                self._measure(ModelTensors(model, state.global_step), args, state, control)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Measure the step at which a training was stopped early, and write the trends.

        Where the Trainer has loaded its best model by now, the last weights are gone, and the run
        ends with the last scheduled step.
        """
        replaced = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self._measuring and state.global_step > self._run.measured[-1] and not replaced:
            with self._unless_it_fails(state.global_step):
                self._run.measure(ModelTensors(model, state.global_step), _tokens_seen(state))
        if self._run.measured and not self._finished and (problem := self._end(self._run.finish)):
            _log.warning("%s", problem)

    def finish(self) -> None:
        """Finish the run of an interrupted training with the steps measured so far.

        Do not call it while the training is running. A resumed training can still add steps to the
        folder.

        Raises:
            MeasureError: The statistics over the steps cannot be computed; the run opens without
                them.
            MismatchError: The run was measured with other arguments.
            OutputError: The folder holds no run of a training, or a run without steps.

        Example:
            >>> NormDynamicsCallback("runs/x").finish()  # doctest: +SKIP
        """
        self._run.reopen()
        self._run.finish()

    @contextmanager
    def _unless_it_fails(self, step: int) -> Iterator[None]:
        """Run the block; if it fails, stop measuring and let the training continue."""
        try:
            yield
        except BaseException as error:
            panic = type(error).__module__ == "pyo3_runtime"  # Rust panics are not `Exception`s
            if not (panic or isinstance(error, Exception)):
                raise  # KeyboardInterrupt or SystemExit
            self._measuring = False
            reason = one_line(error)
            problem = self._end(lambda: self._run.stop(step, reason))
            outcome = problem or "no step was measured"
            if self._finished and not problem:
                last = self._run.measured[-1]
                outcome = f"dynamics.Run({str(self._run.output)!r}) opens the steps up to {last}"
            _log.warning(
                "norms are not measured from step %d on, the training continues: %s (%s)",
                step,
                reason,
                outcome,
            )
            _log.debug("what ended the measuring", exc_info=True)

    def _end(self, finish: Callable[[], None]) -> str | None:
        """Finish the run, and return why that failed; None when it did not."""
        try:
            finish()
        except MeasureError as error:  # the run is finished, but has no trends
            self._finished = True
            return one_line(error)
        except Exception as error:  # of any kind: the training must continue
            output = str(self._run.output)
            return (
                f"{output} is not finished: {one_line(error)}; when that is fixed, call "
                f"NormDynamicsCallback({output!r}, ...).finish() with the same arguments"
            )
        self._finished = bool(self._run.measured)
        return None

    def _measure(
        self,
        tensors: ModelTensors,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
    ) -> None:
        columns = self._run.measure(tensors, _tokens_seen(state))
        try:
            if (handler := self._handler()) is not None:
                # Not handler.on_log, which would also mark the Trainer's own log as done.
                handler.call_event("on_log", args, state, control, logs=self._numbers(columns))
        except Exception as error:  # of a tracker or another callback
            if not self._report_failed:
                _log.warning(
                    "the norms of step %d did not reach every tracker: %s; they are stored in %s",
                    tensors.step,
                    one_line(error),
                    self._run.output,
                )
            self._report_failed = True

    def _numbers(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean of each norm over the tokens of the rule, and its correlation with frequency."""
        tokens = self._run.tokens
        selected_rows = (
            slice(None) if tokens is None else self._rule.mask(tokens["count"], tokens["kind"])
        )
        numbers = {}
        for name, values in columns.items():
            if not is_norm(name):
                continue
            numbers[f"{name}_mean"] = float(values[selected_rows].mean())
            if tokens is not None:
                correlation = spearman(values[selected_rows], tokens["count"][selected_rows])
                numbers[f"{name}_spearman_log_frequency"] = correlation.statistic
        return {name: number for name, number in numbers.items() if np.isfinite(number)}

    def _handler(self) -> CallbackHandler | None:
        """The Trainer's callback handler, which also calls the callbacks of trackers.

        A Trainer does not pass it to callbacks, so it is looked up among the callers.
        """
        frame = inspect.currentframe()
        while frame is not None:
            caller = frame.f_locals.get("self")
            if isinstance(caller, CallbackHandler) and self in caller.callbacks:
                return caller
            frame = frame.f_back
        return None


def _tokens_seen(state: TrainerState) -> int | None:
    """Tokens trained on, or None unless `include_num_input_tokens_seen` is set."""
    return int(state.num_input_tokens_seen) or None
