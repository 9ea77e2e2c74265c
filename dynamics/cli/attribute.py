"""The command that attributes predictions to tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamics.cli.output import Stages, emit
from dynamics.progress import OnProgress, no_progress

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
            help="A model folder, a training folder, a catalog name or a hub repository; with "
            "--steps a series."
        ),
    ],
    text: Annotated[
        str | None, typer.Argument(help="The input text; or give --file or --dataset.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Inputs: JSON lines with text (and text_pair, continuation, target, foil), or "
            "a .txt with one text per line."
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
        typer.Option(help="Text that follows TEXT; --target given explains its tokens."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Attribute TEXT at these steps of a series: all, last, 0,1,512, log2(512)."
        ),
    ] = None,
    method: Annotated[
        list[str],
        typer.Option(help="Method; may be given several times; 'all' uses all that fit the model."),
    ] = ["normxlogit"],  # noqa: B006 (typer copies it)
    target: Annotated[
        str,
        typer.Option(
            help="Prediction to explain: predicted (the most likely), given (each token of the "
            "text or continuation), a label, a token, or id:N."
        ),
    ] = "predicted",
    foil: Annotated[
        str | None, typer.Option(help="Label, token or id:N to contrast the target with.")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(help="Position to predict (default: the next); it is masked in a masked LM."),
    ] = None,
    generate: Annotated[
        int, typer.Option(min=0, help="Generate this many tokens greedily, and explain them.")
    ] = 0,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="all|0,3,12",
            help="Layers to apply the output head to; 0 is the embeddings (default: the last).",
        ),
    ] = None,
    norm_source: Annotated[
        str,
        typer.Option(
            help="Vector whose norm is used: row, row_centered, module_output, 'layer N'."
        ),
    ] = "module_output",
    logit_form: Annotated[
        Literal["raw", "centered", "log_probability"], typer.Option(help="Form of the logit.")
    ] = "raw",
    protocol: Annotated[
        Literal["sound", "paper"],
        typer.Option(help="'paper' reproduces the released code of the paper."),
    ] = "sound",
    baseline: Annotated[
        Literal["auto", "zero", "pad", "mask"],
        typer.Option(help="Baseline input of integrated gradients."),
    ] = "auto",
    occlude_with: Annotated[
        Literal["auto", "mask", "pad", "unk", "mean", "delete"],
        typer.Option(help="Replacement of an occluded token."),
    ] = "auto",
    counts: Annotated[
        Path | None,
        typer.Option(help="counts.parquet of `dynamics count`, for inverse_log_frequency."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random scores.")] = 0,
    side: Annotated[
        Literal["source", "target"],
        typer.Option(help="Side of an encoder-decoder whose tokens are scored."),
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
        typer.Option(
            "--format",
            help="Output format (default: by the suffix of -o, else table); json is JSON lines.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Output file; an interrupted JSON-lines file is resumed."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs per batch.")] = 16,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "float64"],
        typer.Option(help="Type of the weights."),
    ] = "float32",
    device: Annotated[
        str, typer.Option(help="Device in torch's notation: cpu, cuda, cuda:1.")
    ] = "cpu",
    task: Annotated[
        Literal["causal", "masked", "seq2seq", "classification", "regression", "none"] | None,
        typer.Option(help="Task of the output head, if config.json does not tell it."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code from the model's repository."),
    ] = False,
) -> None:
    """Attribute predictions to the tokens of a text.

    In a causal LM the representation of token i predicts what follows token i; at the read-out the
    logit attribution is the logit itself, and --exclude-readout leaves it out.
    """
    from dynamics.errors import ConfigError

    form = _format(shape, as_json, output)
    fields = {"text": text, "text_pair": text_pair, "continuation": continuation}
    texts = _texts({key: value for key, value in fields.items() if value}, file, dataset, column)
    layer_numbers = _layers(layers)
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
        methods: list[str] = []

        def load(place: "Checkpoint | str") -> AttributionJob:
            loaded = load_model(
                place, task=task, dtype=dtype, device=device, trust_remote_code=trust_remote_code
            )
            job = AttributionJob(
                loaded,
                method,
                target_spec=TargetSpec(target, foil, position, generate),
                layers=layer_numbers,
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
            methods[:] = methods or choose_methods(job, texts[0], stages.report)
            return replace(job, methods=methods)

        show_progress = stages.counter("attributing")
        if steps is not None:
            series = open_any(model).select(steps)
            for note in series.notes:
                stages.report(note)
            total, results = len(series.checkpoints), attribute_series(series, load, texts[0])
            write = partial(write_series_attributions, series, load, texts[0])
        else:
            job = load(model)
            total, results = len(texts), job.attributions(texts)
            write = partial(job.write, texts)
        count = show_progress if total > 1 else no_progress
        if form == "json" and output is not None:
            if skipped := write(output, count):
                stages.report(f"{output} already held {skipped} lines, which are kept")
        else:
            _put(_counted(results, total, count), form, output, top, together=steps is not None)
    if output is not None:
        emit(as_json, {"attributions": str(output)}, f"attributions: {output}")


def _format(shape: Format | None, as_json: bool, output: Path | None) -> Format:
    from dynamics.errors import ConfigError

    if as_json and shape not in (None, "json"):
        raise ConfigError(f"--json and --format {shape} contradict each other; give one")
    by_suffix = _BY_SUFFIX.get(output.suffix) if output else None
    form = "json" if as_json else shape or by_suffix or "table"
    if form == "table" and output is not None:
        raise ConfigError(f"{output} needs --format json, html or inseq; a table is for a terminal")
    return form


def _texts(fields: dict[str, str], file: Path | None, dataset: str | None, column: str) -> Texts:
    """Return the inputs, checked before a model is loaded."""
    from dynamics.attribution.input_files import read_dataset, read_texts
    from dynamics.errors import ConfigError

    inputs = {"TEXT": fields, "--file": file, "--dataset": dataset}
    names = [name for name, value in inputs.items() if value]
    if len(names) > 1:
        raise ConfigError(f"{' and '.join(names)} give the input twice; leave one out")
    if file is not None:
        return read_texts(file)
    if dataset is not None:
        return read_dataset(dataset, column)
    if not fields.get("text", "").strip():
        raise ConfigError("TEXT is missing or empty; give it, or --file, or --dataset")
    return [fields]


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
    results: Iterable[list["Attribution"]], total: int, count: OnProgress
) -> Iterator[list["Attribution"]]:
    for done, attributions in enumerate(results, 1):
        yield attributions
        count(done, total)


def _put(
    results: Iterable[list["Attribution"]],
    form: Format,
    output: Path | None,
    top: int,
    *,
    together: bool,
) -> None:
    """Print or write attributions; tables and JSON lines as soon as they are computed.

    Args:
        results: The attributions of each text, or of each step.
        form: Output format.
        output: File of an HTML page or inseq JSON; standard output when None.
        top: Most tokens of a table.
        together: Whether to show all attributions in one table.
    """
    from dynamics.attribution.html import page
    from dynamics.attribution.inseq import to_inseq
    from dynamics.attribution.terminal import show
    from dynamics.files import whole_file

    if form == "json":
        for attributions in results:
            print(*(attribution.to_json() for attribution in attributions), sep="\n", flush=True)
    elif form == "table":
        for attributions in [list(chain(*results))] if together else results:
            show(attributions, top=top)
    else:
        attributions = list(chain(*results))
        title = f"Attributions of {attributions[0].model}"
        content = page(attributions, title) if form == "html" else to_inseq(attributions)
        if output is None:
            print(content)
            return
        with whole_file(output) as partial_file:
            partial_file.write_text(content, "utf-8")
