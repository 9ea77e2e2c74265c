"""The command that attributes predictions to tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dynamics.attribution.settings import AttributeSettings
from dynamics.cli.output import Stages, emit
from dynamics.cli.settings import SettingsFile
from dynamics.errors import ConfigError
from dynamics.progress import OnProgress, no_progress
from dynamics.settings_files import read_settings

if TYPE_CHECKING:
    from dynamics.attribution.result import Attribution
    from dynamics.checkpoints.checkpoint import Checkpoint

Format = Literal["table", "json", "html", "inseq"]
Texts = list[dict[str, Any]]
_INPUT, _PREDICTION, _OUTPUT = "Input", "Prediction", "Output"
_BY_SUFFIX: dict[str, Format] = {".jsonl": "json", ".json": "json", ".html": "html"}


def attribute(
    model: Annotated[
        str,
        typer.Argument(
            help="A model folder, a training folder, a catalog name or a hub repository; with "
            "--steps a series."
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT KEY=VALUE",
            help="The input text, unless --file or --dataset is given; then settings, listed in "
            "docs/settings.md.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Inputs: JSON lines with text (and text_pair, continuation, target, foil), or "
            "a .txt with one text per line.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:SPLIT]",
            help="Inputs: a data set's name, file or folder.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    continuation: Annotated[
        str | None,
        typer.Option(
            help="Text that follows TEXT; --target given explains its tokens.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Attribute TEXT at these steps of a series: all, last, 0,1,512, log2(512).",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Prediction to explain: predicted (the most likely), given (each token of the "
            "text or continuation), a label, a token, or id:N.",
            rich_help_panel=_PREDICTION,
        ),
    ] = "predicted",
    foil: Annotated[
        str | None,
        typer.Option(
            help="Label, token or id:N to contrast the target with.", rich_help_panel=_PREDICTION
        ),
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(
            help="Position to predict (default: the next); it is masked in a masked LM.",
            rich_help_panel=_PREDICTION,
        ),
    ] = None,
    generate: Annotated[
        int,
        typer.Option(
            min=0,
            help="Generate this many tokens greedily, and explain them.",
            rich_help_panel=_PREDICTION,
        ),
    ] = 0,
    method: Annotated[
        list[str],
        typer.Option(help="Method; may be given several times; 'all' uses all that fit the model."),
    ] = ["normxlogit"],  # noqa: B006 (typer copies it)
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="all|0,3,12",
            help="Layers to apply the output head to; 0 is the embeddings (default: the last).",
        ),
    ] = None,
    exclude_readout: Annotated[
        bool,
        typer.Option(
            "--exclude-readout", help="Leave out the position that the prediction is read from."
        ),
    ] = False,
    word_level: Annotated[
        bool, typer.Option("--word-level", help="Sum over the tokens of each word.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Device in torch's notation: cpu, cuda, cuda:1.")
    ] = "cpu",
    settings_file: SettingsFile = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output file; an interrupted JSON-lines file is resumed.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    shape: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Output format (default: by the suffix of -o, else table); json is JSON lines.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            min=0, help="Tokens in a table; 0 for all, in text order.", rich_help_panel=_OUTPUT
        ),
    ] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Attribute predictions to the tokens of a text.

    In a causal LM the representation of token i predicts what follows token i; at the read-out the
    logit attribution is the logit itself, and --exclude-readout leaves it out.
    """
    form = _format(shape, as_json, output)
    text, key_values = _text_and_settings(words or [], file is not None or dataset is not None)
    # Settings are read before torch is imported, so that a slip is refused at once.
    settings = read_settings(AttributeSettings, settings_file, key_values)
    fields = {"text": text, "text_pair": settings.text_pair, "continuation": continuation}
    fields = {key: value for key, value in fields.items() if value}
    texts = _texts(fields, file, dataset, settings.column)
    layer_numbers = _layers(layers)
    if steps is not None and (file or dataset):
        raise ConfigError("--steps follows one text over a series; give it as TEXT")
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
            """Return the job on the model of a place; methods are chosen on the first one."""
            loaded = load_model(
                place,
                task=settings.task,
                dtype=settings.dtype,
                device=device,
                trust_remote_code=settings.trust_remote_code,
            )
            counts = None if settings.counts is None else counts_for(loaded, Path(settings.counts))
            job = AttributionJob(
                loaded,
                method,
                target_spec=TargetSpec(target, foil, position, generate),
                layers=layer_numbers,
                settings=settings.of_methods(counts),
                exclude_readout=exclude_readout,
                word_level=word_level,
                batch_size=settings.batch_size,
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


def _text_and_settings(words: list[str], has_inputs: bool) -> tuple[str | None, list[str]]:
    """Return TEXT and the settings among the words after the model; with other inputs no TEXT."""
    if has_inputs and all("=" in word for word in words):
        return None, words
    return next(iter(words), None), words[1:]


def _format(shape: Format | None, as_json: bool, output: Path | None) -> Format:
    """Return the format of the output, by the options or the suffix of its file."""
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
    """Return the numbers of the layers that --layers names."""
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
    """Yield the results, and count each when the next one is requested."""
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
