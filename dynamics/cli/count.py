"""The command that counts the tokens of a corpus."""

from pathlib import Path
from typing import Annotated

import typer

from dynamics.cli.output import Json, Stages, emit
from dynamics.cli.settings import KeyValues, SettingsFile
from dynamics.corpus.information.settings import CountSettings
from dynamics.errors import ConfigError
from dynamics.settings_files import read_settings

_TEXT, _IDS = "Text", "Token streams"


def count(
    corpus: Annotated[
        str,
        typer.Argument(
            help="Text: a file, a folder, a pattern like 'data/*.jsonl', a data set's name, or "
            "python-docs. Or a token stream: a training folder, a file of ids with "
            "--sequence-length, or a public series like pythia-160m, whose stream is sampled."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Path of the counts.parquet to write.")
    ],
    key_values: KeyValues = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder, tokenizer.json or hub name; not needed for training folders and series."
        ),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Rows of the embedding, if the tokenizer has more or fewer.")
    ] = None,
    text_column: Annotated[
        str, typer.Option(help="Column that holds the text.", rich_help_panel=_TEXT)
    ] = "text",
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of a data set, a folder or a pattern, or all (default: train, where there "
            "are splits).",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Read files as text, json, csv, parquet or arrow instead of guessing.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            help="Text between documents in one file or row, such as '<|endoftext|>'; it is not "
            "counted.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    max_documents: Annotated[
        int | None, typer.Option(help="Most documents to read.", rich_help_panel=_TEXT)
    ] = None,
    allow_loss: Annotated[
        bool,
        typer.Option(
            "--allow-loss",
            help="Count the text even if more than 1 % of it becomes no token.",
            rich_help_panel=_TEXT,
        ),
    ] = False,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            help="Sequence length T of a third-party stream (rows of T + 1 ids).",
            rich_help_panel=_IDS,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the ids in that stream (default: by its header, else uint16).",
            rich_help_panel=_IDS,
        ),
    ] = None,
    sample_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens to sample from the stream of a public series, at least.",
            rich_help_panel=_IDS,
        ),
    ] = 100_000_000,
    information_gain: Annotated[
        bool,
        typer.Option(
            "--information-gain",
            help="Also compute each token's information gain; its settings are information.window "
            "and others.",
        ),
    ] = False,
    settings_file: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Count tokens of a corpus or of a token stream."""
    # Settings are read before the corpus is, so that a slip is refused at once.
    settings = read_settings(CountSettings, settings_file, key_values or ())
    information = settings.information.of_columns()
    if information.oyama and not information_gain:
        raise ConfigError("information.oyama needs --information-gain; give both")
    from dynamics.corpus.count import count_corpus

    with Stages() as stages:
        counts = count_corpus(
            corpus,
            tokenizer,
            vocab_size=vocab_size,
            text_column=text_column,
            split=split,
            max_documents=max_documents,
            format_name=format_name,
            separator=separator,
            allow_loss=allow_loss,
            sequence_length=sequence_length,
            dtype=dtype,
            sample_tokens=sample_tokens,
            information=information if information_gain else None,
            contiguous=settings.information.contiguous,
            report=stages.report,
            on_progress=stages.counter("sampling"),
            on_pass=stages.counter("information gain"),
        )
    counts.write(output)
    kinds = counts.table.groupby("kind")["count"].agg(entries="size", occurrences="sum")
    emit(
        as_json,
        {"counts": str(output), **counts.info.__dict__},
        f"{counts.info.tokens_counted:,} tokens, {len(counts.table):,} entries\n"
        f"{kinds.to_string()}\ncounts: {output}",
    )
