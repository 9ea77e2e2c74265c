"""The command that attributes predictions to tokens."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamics.cli.output import Stages, emit

if TYPE_CHECKING:
    from dynamics.attribution.result import Attribution
    from dynamics.checkpoints.checkpoint import Checkpoint

Format = Literal["table", "json", "html", "inseq"]
Texts = list[dict[str, Any]]
_BY_SUFFIX: dict[str, Format] = {".jsonl": "json", ".json": "json", ".html": "html"}


def attribute(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder of a model, a training folder, a name of the catalog or of a hub; with "
            "--steps a series."
        ),
    ],
    text: Annotated[str | None, typer.Argument(help="The input; or --file, or --dataset.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Inputs: JSON lines with text (and text_pair, continuation, target, foil), or "
            "one text a line in a .txt."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME[:SPLIT]", help="Inputs: a data set's name, file or folder."),
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the data set with the text.")] = "text",
    text_pair: Annotated[str | None, typer.Option(help="A second segment after TEXT.")] = None,
    continuation: Annotated[
        str | None,
        typer.Option(help="What follows TEXT, to be explained with --target given."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Follow TEXT over these steps of a series: all, last, 0,1,512, log2(512)."
        ),
    ] = None,
    method: Annotated[
        list[str],
        typer.Option(help="May be given several times; 'all' takes each that fits the model."),
    ] = ["normxlogit"],  # noqa: B006 (typer copies it)
    target: Annotated[
        str,
        typer.Option(
            help="predicted (the model's own), given (each token of the text or continuation), a "
            "label, a token, or id:N."
        ),
    ] = "predicted",
    foil: Annotated[
        str | None, typer.Option(help="Label, token or id:N the target is contrasted with.")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(
            help="Position that is predicted: masked in a masked LM; the next by default."
        ),
    ] = None,
    generate: Annotated[
        int, typer.Option(min=0, help="Tokens to generate greedily first, and to explain.")
    ] = 0,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="all|0,3,12",
            help="Layers the head reads, 0 for the embeddings; the last by default.",
        ),
    ] = None,
    norm_source: Annotated[
        str, typer.Option(help="Which norm: row, row_centered, module_output, 'layer N'.")
    ] = "module_output",
    logit_form: Annotated[
        Literal["raw", "centered", "log_probability"], typer.Option(help="Which logit.")
    ] = "raw",
    protocol: Annotated[
        Literal["sound", "paper"],
        typer.Option(help="'paper' keeps the quirks of the released code."),
    ] = "sound",
    baseline: Annotated[
        Literal["auto", "zero", "pad", "mask"],
        typer.Option(help="What integrated gradients start from."),
    ] = "auto",
    occlude_with: Annotated[
        Literal["auto", "mask", "pad", "unk", "mean", "delete"],
        typer.Option(help="What occlusion puts in place of a token."),
    ] = "auto",
    counts: Annotated[
        Path | None,
        typer.Option(help="counts.parquet of `dynamics count`, for inverse_log_frequency."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random scores.")] = 0,
    side: Annotated[
        Literal["source", "target"],
        typer.Option(help="Whose tokens are scored, in an encoder-decoder."),
    ] = "source",
    exclude_readout: Annotated[
        bool,
        typer.Option(
            "--exclude-readout", help="Leave out the position that the prediction is read from."
        ),
    ] = False,
    word_level: Annotated[
        bool, typer.Option("--word-level", help="Sum over the tokens of each word.")
    ] = False,
    top: Annotated[
        int, typer.Option(min=0, help="Tokens in a table; 0 for all, in text order.")
    ] = 10,
    shape: Annotated[
        Format | None,
        typer.Option("--format", help="By the suffix of -o, else table; json is one line each."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File; JSON lines go on where they were interrupted."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs that are run at once.")] = 16,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "float64"], typer.Option(help="Of the weights.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="As torch calls it: cpu, cuda, cuda:1.")] = "cpu",
    task: Annotated[
        Literal["causal", "masked", "seq2seq", "classification", "regression", "none"] | None,
        typer.Option(help="What the head predicts, where config.json does not say."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings along.")
    ] = False,
) -> None:
    """Attribute predictions to the tokens of a text.

    In a causal LM the representation of token i predicts what follows token i; at the read-out the
    logit attribution is the logit itself, and --exclude-readout leaves it out.
    """
    from dynamics.errors import ConfigError

    form = _format(shape, as_json, output)
    given = {"text": text, "text_pair": text_pair, "continuation": continuation}
    texts = _texts({key: value for key, value in given.items() if value}, file, dataset, column)
    chosen_layers = _layers(layers)
    if steps is not None and (file or dataset):
        raise ConfigError("--steps follows one text over a series; give it as TEXT")
    from dynamics.attribution.batch import AttributionSettings
    from dynamics.attribution.job import (
        AttributionJob,
        attribute_series,
        check_methods,
        choose_methods,
        counts_for,
        write_series_attributions,
    )
    from dynamics.attribution.targets import TargetSpec
    from dynamics.checkpoints.opening import open_any
    from dynamics.models.load import load_model

    check_methods(method)
    with Stages() as stages:
        chosen: list[str] = []

        def load(place: "Checkpoint | str") -> AttributionJob:
            loaded = load_model(
                place, task=task, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
            job = AttributionJob(
                loaded,
                method,
                target_spec=TargetSpec(target, foil, position, generate),
                layers=chosen_layers,
                settings=AttributionSettings(
                    norm_source=norm_source,
                    logit_form=logit_form,
                    side=side,
                    protocol=protocol,
                    baseline=baseline,
                    occlude_with=occlude_with,
                    seed=seed,
                    counts=None if counts is None else counts_for(loaded, counts),
                ),
                exclude_readout=exclude_readout,
                word_level=word_level,
                batch_size=batch_size,
            )
            chosen[:] = chosen or choose_methods(job, texts[0], stages.report)
            return replace(job, methods=chosen)

        many: Callable[[int, int], None] = stages.counter("attributing")
        if steps is not None:
            series = open_any(model).select(steps)
            for note in series.notes:
                stages.report(note)
            total, made = len(series.checkpoints), attribute_series(series, load, texts[0])
            write = partial(write_series_attributions, series, load, texts[0])
        else:
            job = load(model)
            total, made = len(texts), job.attributions(texts)
            write = partial(job.write, texts)
        count = many if total > 1 else _silent
        if form == "json" and output is not None:
            if kept := write(output, count):
                stages.report(f"{kept} lines were there already")
        else:
            _put(_counted(made, total, count), form, output, top, together=steps is not None)
    if output is not None:
        emit(as_json, {"attributions": str(output)}, f"attributions: {output}")


def _silent(*told: object) -> None:
    """For what is told already, or needs no progress."""


def _format(shape: Format | None, as_json: bool, output: Path | None) -> Format:
    from dynamics.errors import ConfigError

    if as_json and shape not in (None, "json"):
        raise ConfigError(f"--json and --format {shape} contradict each other; give one")
    by_suffix = _BY_SUFFIX.get(output.suffix) if output else None
    form = "json" if as_json else shape or by_suffix or "table"
    if form == "table" and output is not None:
        raise ConfigError(f"{output} needs --format json, html or inseq; a table is for a terminal")
    return form


def _texts(given: dict[str, str], file: Path | None, dataset: str | None, column: str) -> Texts:
    """The inputs, checked before a model is loaded."""
    from dynamics.attribution.input_files import read_dataset, read_texts
    from dynamics.errors import ConfigError

    ways = [
        name for name, each in {"TEXT": given, "--file": file, "--dataset": dataset}.items() if each
    ]
    if len(ways) > 1:
        raise ConfigError(f"{' and '.join(ways)} give the input twice; leave one out")
    if file is not None:
        return read_texts(file)
    if dataset is not None:
        return read_dataset(dataset, column)
    if not given.get("text", "").strip():
        raise ConfigError("TEXT is missing or empty; give it, or --file, or --dataset")
    return [given]


def _layers(written: str | None) -> list[int] | Literal["all"] | None:
    from dynamics.errors import ConfigError

    if written is None or written == "all":
        return written
    try:
        return [int(layer) for layer in written.split(",")]
    except ValueError:
        raise ConfigError(
            f"cannot read the layers {written!r}; give 'all' or numbers, like 0,3,12"
        ) from None


def _counted(
    made: Iterable[list["Attribution"]], total: int, count: Callable[[int, int], None]
) -> Iterator[list["Attribution"]]:
    for done, each in enumerate(made, 1):
        yield each
        count(done, total)


def _put(
    made: Iterable[list["Attribution"]],
    form: Format,
    output: Path | None,
    top: int,
    *,
    together: bool,
) -> None:
    """Print, as soon as there is something to print, or write a file.

    Args:
        made: The attributions of each text, or of each step.
        form: A table or JSON is printed; the others are one whole.
        output: Where to, standard output when None.
        top: Tokens of a table.
        together: Whether a table compares all of them.
    """
    from dynamics.attribution.html import page
    from dynamics.attribution.inseq import to_inseq
    from dynamics.attribution.terminal import show
    from dynamics.files import whole_file

    if form == "json":
        for attributions in made:
            print(*(each.to_json() for each in attributions), sep="\n", flush=True)
    elif form == "table":
        for attributions in [list(chain(*made))] if together else made:
            show(attributions, top=top)
    else:
        every = list(chain(*made))
        title = f"Attributions of {every[0].model}"
        content = page(every, title) if form == "html" else to_inseq(every)
        if output is None:
            print(content)
            return
        with whole_file(output) as whole:
            whole.write_text(content, "utf-8")
