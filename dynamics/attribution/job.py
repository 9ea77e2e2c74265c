"""Attribute many texts with several methods, in an order that lets an output file be resumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from dynamics.attribution.attribute import Attributing, attribute_with
from dynamics.attribution.contents import text_of
from dynamics.attribution.input_files import append_lines, keep_lines
from dynamics.attribution.methods import METHODS, find_method
from dynamics.attribution.result import Attribution
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.corpus.counts import check_tokenizer, read_counts
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.corpus.tokenizers.vocabulary_rows import cut_to_rows
from dynamics.errors import ConfigError, did_you_mean
from dynamics.models.live_model import LiveModel
from dynamics.progress import OnProgress, Report, no_progress

_IN_RESULT = {"norm_source", "logit_form", "layer", "side", "protocol"}
# Settings that came later: files written before can be resumed, because the default is left out.
_ADDED = {"mixing": "rolled_out"}


@dataclass(frozen=True)
class AttributionJob(Attributing):
    """A model with the methods and settings to attribute each text with.

    Attributes:
        model: The model.
        methods: Names in `METHODS`.
        word_level: Sum over the tokens of each word.
    """

    model: LiveModel
    methods: Sequence[str] = ("normxlogit",)
    word_level: bool = False

    def attributions(self, texts: Sequence[Mapping[str, Any]]) -> Iterator[list[Attribution]]:
        """Yield the attributions of each text, by method and then by layer."""
        for start in range(0, len(texts), self.batch_size):
            group = texts[start : start + self.batch_size]
            by_method = [self._attribute(group, method) for method in self.methods]
            for index, text in enumerate(group):
                yield [self._finish(a, text) for by_text in by_method for a in by_text[index]]

    def write(
        self,
        texts: Sequence[Mapping[str, Any]],
        path: Path,
        on_progress: OnProgress = no_progress,
    ) -> int:
        """Write one line of JSON for each attribution; lines that are there already are kept.

        Args:
            texts: The inputs.
            path: The file; each line is written at once, so that an interrupted job can resume.
            on_progress: Called with the number of finished texts and of all texts.

        Returns:
            Number of lines that the file had already.

        Raises:
            OutputError: A line of the file is of another text, model, method or setting.
        """
        lines = keep_lines(path, (entries for text in texts for entries in self.expected(text)))
        done, skipped = divmod(lines, len(self.methods) * len(self.layer_numbers(self.model)))
        with append_lines(path) as append:
            for results in self.attributions(texts[done:]):
                append(results[skipped:])
                done, skipped = done + 1, 0
                on_progress(done, len(texts))
        return lines

    def _attribute(
        self, group: Sequence[Mapping[str, Any]], method: str
    ) -> list[list[Attribution]]:
        """Return for each text of a batch its attributions by layer."""
        results = list(attribute_with(self.model, group, method, self))
        layers = len(self.layer_numbers(self.model))
        return [results[start : start + layers] for start in range(0, len(results), layers)]

    def _finish(self, attribution: Attribution, text: Mapping[str, Any]) -> Attribution:
        """Return the attribution by words if requested, with the settings it was made with."""
        if self.word_level:
            attribution = attribution.to_word_level()
        return replace(attribution, asked=self._request(text))

    def _request(self, text: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that a line of JSON has no entry for, without those that are None."""
        of_text = {key: value for key, value in text.items() if key != "text"}
        settings = {
            name: value
            for name, value in vars(self.settings).items()
            if name not in _IN_RESULT and not (name in _ADDED and _ADDED[name] == value)
        }
        if self.settings.counts is not None:
            digest = sha256(self.settings.counts.tobytes()).hexdigest()[:16]
            settings["counts"] = f"sha256:{digest}"
        flags = {"exclude_readout": self.exclude_readout, "word_level": self.word_level}
        dtype = str(self.model.network.dtype).removeprefix("torch.")
        model = {"dtype": dtype, "weights": self.model.weights}
        request = {**vars(self.target_spec), **of_text, **flags, **settings, **model}
        return {key: value for key, value in request.items() if value is not None}

    def expected(self, text: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield for each line of a text the entries by which the line is recognised."""
        settings, model = self.settings, self.model
        for method in self.methods:
            for layer in self.layer_numbers(self.model):
                yield {
                    "text": text_of(model, text),
                    "model": model.name,
                    "revision": model.revision,
                    "method": method,
                    "layer": layer,
                    "norm_source": settings.norm_source,
                    "logit_form": settings.logit_form,
                    "protocol": settings.protocol,
                    "side": settings.side,
                    "asked": self._request(text),
                }


def attribute_series(
    series: CheckpointSeries,
    load_job: Callable[[Checkpoint], AttributionJob],
    text: Mapping[str, Any],
    *,
    start: int = 0,
) -> Iterator[list[Attribution]]:
    """Yield the attributions of one text at each checkpoint, with its step as their revision.

    Args:
        series: The checkpoints, one of which is in memory at a time.
        load_job: Loads the model of a checkpoint.
        text: The input.
        start: Index of the first checkpoint to attribute.
    """
    for checkpoint in series.checkpoints[start:]:
        (results,) = load_job(checkpoint).attributions([text])
        yield [replace(a, **_model_and_revision(series, checkpoint)) for a in results]


def write_series_attributions(
    series: CheckpointSeries,
    load_job: Callable[[Checkpoint], AttributionJob],
    text: Mapping[str, Any],
    path: Path,
    on_progress: OnProgress = no_progress,
) -> int:
    """Write `attribute_series` to a file, as `AttributionJob.write` does for many texts.

    Returns and raises as that does. Entries that the file must have are those of the first
    checkpoint, with the revision and the weights of the others.
    """
    entries_of_step: list[dict[str, Any]] = []
    lines = 0
    if path.exists():
        entries_of_step = list(load_job(series.checkpoints[0]).expected(text))
        expected = (
            entries
            | {"asked": entries["asked"] | {"weights": weights}}
            | _model_and_revision(series, checkpoint)
            for checkpoint in series.checkpoints
            for weights in [checkpoint.identity()]
            for entries in entries_of_step
        )
        lines = keep_lines(path, expected)
    done, skipped = divmod(lines, len(entries_of_step) or 1)
    with append_lines(path) as append:
        for results in attribute_series(series, load_job, text, start=done):
            append(results[skipped:])
            done, skipped = done + 1, 0
            on_progress(done, len(series.checkpoints))
    return lines


def _model_and_revision(series: CheckpointSeries, checkpoint: Checkpoint) -> dict[str, str]:
    """Return the entries of an attribution that name the series and the step."""
    return {"model": series.name, "revision": f"step {checkpoint.step}"}


def check_methods(names: Sequence[str]) -> None:
    """Refuse names that no method has, before a model is loaded.

    Raises:
        ConfigError: There is no such method.
    """
    for name in names:
        if name not in METHODS and name != "all":
            raise ConfigError(f"there is no method {name!r}; {did_you_mean(name, METHODS)}")


def choose_methods(job: AttributionJob, text: Mapping[str, Any], report: Report) -> list[str]:
    """Return the methods of a job without repetition; `all` stands for those that can score a text.

    Args:
        job: The job.
        text: The first input, on which the methods are tried.
        report: Called with a line for each method that `all` leaves out, and why.

    Raises:
        ConfigError: A named method does not cover the model, or no method can score the text.
    """
    check_methods(job.methods)
    if "all" not in job.methods:
        for name in job.methods:
            find_method(name, job.model)
        return list(dict.fromkeys(job.methods))
    refused: dict[str, ConfigError] = {}
    for name in METHODS:
        try:
            next(replace(job, methods=[name]).attributions([text]))
        except ConfigError as error:
            refused[name] = error
    if len(refused) == len(METHODS):
        first = next(iter(refused.values()))
        raise ConfigError(str(first)) from first
    for name, error in refused.items():
        report(f"left out: {name}: {error}")
    return [name for name in METHODS if name not in refused]


def counts_for(model: LiveModel, path: Path) -> Int[np.ndarray, " V"]:
    """Read a file of counts, aligned with the token ids of a model.

    Raises:
        CorpusError: The file is missing, damaged or not a file of counts.
        MismatchError: The counts are of another tokenizer, or have more tokens than the model rows.
    """
    counts = read_counts(path)
    check_tokenizer(counts, tokenizer_sha256(model.tokenizer), model.name)
    rows = len(model.embedding_matrix)
    difference = f"{counts.name} has {len(counts.table)} tokens but {model.name} has {rows} rows"
    table = cut_to_rows(counts.table.sort_values("token_id"), rows, difference)
    return table["count"].to_numpy()
