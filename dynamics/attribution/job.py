"""Many texts by several methods, in an order in which a file can be gone on with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from dynamics.attribution.attribute import attribute
from dynamics.attribution.input_files import append_lines, keep_lines
from dynamics.attribution.inputs import text_of
from dynamics.attribution.methods import METHODS, find_method
from dynamics.attribution.question import Settings
from dynamics.attribution.result import Attribution
from dynamics.attribution.targets import Ask
from dynamics.checkpoints.checkpoint import Checkpoint
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.corpus.counts import check_tokenizer, read_counts
from dynamics.corpus.tokenizers.loading import tokenizer_sha256
from dynamics.corpus.tokenizers.vocabulary_rows import cut_to_rows
from dynamics.errors import ConfigError, did_you_mean
from dynamics.models.live_model import LiveModel

_IN_RESULT = {"norm_source", "logit_form", "layer", "side", "protocol"}


@dataclass(frozen=True)
class Run:
    """What is done with each text; `attribute` explains the settings.

    Attributes:
        model: The model.
        methods: Names in `METHODS`.
        ask: Which predictions.
        layers: Layers whose representations the head reads; None for the last.
        settings: How.
        exclude_readout: Leave out the position that a prediction is read from.
        word_level: Sum over the tokens of each word.
        batch_size: Inputs that are run at once.
    """

    model: LiveModel
    methods: Sequence[str] = ("normxlogit",)
    ask: Ask = field(default_factory=Ask)
    layers: Sequence[int] | Literal["all"] | None = None
    settings: Settings = field(default_factory=Settings)
    exclude_readout: bool = False
    word_level: bool = False
    batch_size: int = 16

    def attributions(self, texts: Sequence[Mapping[str, Any]]) -> Iterator[list[Attribution]]:
        """For each text its attributions, by method and then by layer."""
        for start in range(0, len(texts), self.batch_size):
            group = texts[start : start + self.batch_size]
            by_method = [self._attributed(group, method) for method in self.methods]
            for index, text in enumerate(group):
                yield [self._final(each, text) for made in by_method for each in made[index]]

    def write(
        self,
        texts: Sequence[Mapping[str, Any]],
        path: Path,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Write one line of JSON for each attribution; lines that are there already are kept.

        Args:
            texts: The inputs.
            path: The file; each line is written at once, so that an interrupted run goes on.
            on_progress: Called with the texts done and all texts.

        Returns:
            Lines that were there already.

        Raises:
            OutputError: A line that is there is of another text, model, method or setting.
        """
        kept = keep_lines(path, (each for text in texts for each in self.expected(text)))
        done, part = divmod(kept, len(self.methods) * len(self._layers))
        with append_lines(path) as add:
            for attributions in self.attributions(texts[done:]):
                for each in attributions[part:]:
                    add(each.to_json())
                done, part = done + 1, 0
                on_progress(done, len(texts))
        return kept

    @property
    def _layers(self) -> Sequence[int | None]:
        if self.layers == "all":
            return range(self.model.stack(self.settings.side).depth + 1)
        return [self.settings.layer] if self.layers is None else self.layers

    def _attributed(
        self, group: Sequence[Mapping[str, Any]], method: str
    ) -> list[list[Attribution]]:
        """For each text of a batch, one attribution for each layer."""
        made = list(
            attribute(
                self.model,
                group,
                method=method,
                ask=self.ask,
                layers=self.layers,
                settings=self.settings,
                exclude_readout=self.exclude_readout,
                batch_size=self.batch_size,
            )
        )
        size = len(made) // len(group)
        return [made[index * size : (index + 1) * size] for index in range(len(group))]

    def _final(self, one: Attribution, text: Mapping[str, Any]) -> Attribution:
        return replace(one.to_word_level() if self.word_level else one, asked=self._asked(text))

    def _asked(self, text: Mapping[str, Any]) -> dict[str, Any]:
        """What a line of JSON does not tell otherwise; nothing that is None."""
        own = {key: value for key, value in text.items() if key != "text"}
        how = {key: value for key, value in vars(self.settings).items() if key not in _IN_RESULT}
        if self.settings.counts is not None:
            how["counts"] = f"sha256:{sha256(self.settings.counts.tobytes()).hexdigest()[:16]}"
        flags = {"exclude_readout": self.exclude_readout, "word_level": self.word_level}
        dtype = str(self.model.network.dtype).removeprefix("torch.")
        model = {"dtype": dtype, "weights": self.model.weights}
        asked = {**vars(self.ask), **own, **flags, **how, **model}
        return {key: value for key, value in asked.items() if value is not None}

    def expected(self, text: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """For each line that a text has, the entries that tell whether it is of this run."""
        settings, model = self.settings, self.model
        for method in self.methods:
            for layer in self._layers:
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
                    "asked": self._asked(text),
                }


def follow(
    series: CheckpointSeries,
    run_at: Callable[[Checkpoint], Run],
    text: Mapping[str, Any],
    *,
    done: int = 0,
) -> Iterator[list[Attribution]]:
    """The attributions of one text at each checkpoint, whose step is their revision.

    Args:
        series: The checkpoints, one of which is in memory at a time.
        run_at: Loads a checkpoint.
        text: The input.
        done: Checkpoints that are left out at the beginning.
    """
    for checkpoint in series.checkpoints[done:]:
        (made,) = run_at(checkpoint).attributions([text])
        yield [replace(each, **_place(series, checkpoint)) for each in made]


def write_followed(
    series: CheckpointSeries,
    run_at: Callable[[Checkpoint], Run],
    text: Mapping[str, Any],
    path: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """`follow` into a file, as `Run.write` does for many texts; the same raises and returns.

    The lines that are there are compared with what the first checkpoint says is to be there.
    """
    wanted: list[dict[str, Any]] = []
    kept = 0
    if path.exists():
        wanted = list(run_at(series.checkpoints[0]).expected(text))
        lines = (
            each | {"asked": each["asked"] | {"weights": weights}} | _place(series, checkpoint)
            for checkpoint in series.checkpoints
            for weights in [checkpoint.identity()]
            for each in wanted
        )
        kept = keep_lines(path, lines)
    done, part = divmod(kept, len(wanted) or 1)
    with append_lines(path) as add:
        for attributions in follow(series, run_at, text, done=done):
            for each in attributions[part:]:
                add(each.to_json())
            done, part = done + 1, 0
            on_progress(done, len(series.checkpoints))
    return kept


def _place(series: CheckpointSeries, checkpoint: Checkpoint) -> dict[str, str]:
    return {"model": series.name, "revision": f"step {checkpoint.step}"}


def check_methods(names: Sequence[str]) -> None:
    """Refuse names that no method has, before a model is loaded.

    Raises:
        ConfigError: There is no such method.
    """
    for name in names:
        if name not in METHODS and name != "all":
            raise ConfigError(f"there is no method {name!r}; {did_you_mean(name, METHODS)}")


def choose_methods(run: Run, text: Mapping[str, Any], report: Callable[[str], None]) -> list[str]:
    """The methods of a run without repetition; `all` is each that answers for a text.

    Args:
        run: What is to be done.
        text: The first input.
        report: Told which methods `all` leaves out, and why.

    Raises:
        ConfigError: A method that is named does not cover the model, or none answers.
    """
    check_methods(run.methods)
    if "all" not in run.methods:
        for name in run.methods:
            find_method(name, run.model)
        return list(dict.fromkeys(run.methods))
    refused: dict[str, ConfigError] = {}
    for name in METHODS:
        try:
            next(replace(run, methods=[name]).attributions([text]))
        except ConfigError as error:
            refused[name] = error
    if len(refused) == len(METHODS):
        first = next(iter(refused.values()))
        raise ConfigError(str(first)) from first
    for name, error in refused.items():
        report(f"left out: {name}: {error}")
    return [name for name in METHODS if name not in refused]


def counts_for(model: LiveModel, path: Path) -> Int[np.ndarray, " V"]:
    """The counts of a file for each token id of a model.

    Raises:
        CorpusError: The file is missing, damaged or holds something else.
        MismatchError: The counts are of another tokenizer, or have more tokens than the model rows.
    """
    counts = read_counts(path)
    check_tokenizer(counts, tokenizer_sha256(model.tokenizer), model.name)
    rows = len(model.embedding_matrix)
    difference = f"{counts.name} has {len(counts.table)} tokens but {model.name} has {rows} rows"
    table = cut_to_rows(counts.table.sort_values("token_id"), rows, difference)
    return table["count"].to_numpy()
