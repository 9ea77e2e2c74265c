"""The commands about public series."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamics.cli.output import emit, size, table

if TYPE_CHECKING:
    from dynamics.checkpoints.catalog.public_series import Defect, PublicSeries

app = typer.Typer(help="What public checkpoint series offer and cost.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_FOLD = 60  # longer families are shown as one row without --family
_COLUMNS = ("name", "family", "steps", "tokens", "tied", "licence", "defects", "readable")


@app.command("list")
def list_series(
    family: Annotated[str | None, typer.Option(help="Only the series of this family.")] = None,
    as_json: Json = False,
) -> None:
    """List the public series of the catalog, without requests to the hub.

    `steps` is the expected number of steps, `defects` the number of defects not yet repaired.
    """
    members = _members(family)
    rows: list[Sequence[str]] = []
    for name, series in members.items():
        shown = series if family or len(series) <= _FOLD else series[:1]
        rows += [_row(member) for member in shown]
        if hidden := len(series) - len(shown):
            rows.append([f"... {hidden} more; --family {name} lists them"])
    listed = [member for series in members.values() for member in series]
    emit(
        as_json,
        {"series": [dict(zip(_COLUMNS, _facts(member), strict=True)) for member in listed]},
        table([_COLUMNS, *rows]),
    )


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name in the catalog, or a full repository id.")
    ],
    offline: Annotated[
        bool, typer.Option("--offline", help="Use the catalog alone; no requests to the hub.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one public series: its steps, shapes, defects, and what reading it costs.

    Requests from the hub the list of steps and the index of the last one; reads no weights.
    """
    from dynamics.checkpoints.catalog.public_series import find
    from dynamics.checkpoints.series_description import describe_series

    entry = find(name)
    facts = describe_series(name)
    if not offline and entry.readable:
        facts["hub"] = _hub_facts(entry)
    lines = [
        *table(_facts_shown(facts)).splitlines(),
        *_section("on the hub", _hub_shown(facts.get("hub"))),
        *_section("unverified", facts["unverified"]),
        *_section("known defects", [_defect(defect) for defect in entry.defects]),
    ]
    emit(as_json, facts, "\n".join([f"{facts['name']} ({facts['family']})", *lines]))


def _hub_facts(entry: "PublicSeries") -> dict[str, Any]:
    from dynamics.checkpoints.opening import open_public_series
    from dynamics.checkpoints.series_description import hub_facts
    from dynamics.errors import CheckpointError

    try:
        return hub_facts(open_public_series(entry), entry)
    except CheckpointError as error:
        return {"not_reached": str(error)}


def _hub_shown(hub: Mapping[str, Any] | None) -> list[str]:
    if hub is None:
        return []
    if "not_reached" in hub:
        return [f"not reached: {hub['not_reached']}"]
    part, files = hub["bytes_per_checkpoint"], hub["file_bytes_per_checkpoint"]
    missing = ", ".join(f"{step:,}" for step in hub["missing"][:8])
    more = ", ..." if len(hub["missing"]) > 8 else ""
    return [
        f"{hub['checkpoints']:,} checkpoints, steps {hub['first']:,} to {hub['last']:,}",
        f"expected but missing: {missing}{more}" if missing else "every expected step is there",
        f"last one: {', '.join(hub['files'])}; {hub['dtype']}; {hub['rows']:,} rows; "
        f"{'tied' if hub['tied'] else 'not tied'}",
        f"embeddings are {size(part)} of the {size(files)} of their files, {part / files:.1%}; in "
        f"all {size(hub['bytes'])} of {size(hub['file_bytes'])}",
        f"{hub['requests_to_index_one']} requests for the index of one",
    ]


def _members(family: str | None) -> dict[str, list["PublicSeries"]]:
    from dynamics.checkpoints.catalog.public_series import catalog, families
    from dynamics.errors import CheckpointError, did_you_mean

    if family is not None and family not in families():
        raise CheckpointError(f"no family {family!r}; {did_you_mean(family, families())}")
    return {
        name: [series for series in catalog().values() if series.family == name]
        for name in ([family] if family else families())
    }


def _facts(series: "PublicSeries") -> tuple[Any, ...]:
    tokens = None if series.last is None else series.tokens_seen(series.last)
    open_defects = sum(not d.repaired and d.kind != "explained" for d in series.defects)
    return (
        series.name,
        series.family,
        series.count,
        tokens,
        series.tied,
        series.licence,
        open_defects,
        series.readable,
    )


def _row(series: "PublicSeries") -> list[str]:
    name, family, steps, tokens, tied, licence, defects, readable = _facts(series)
    return [
        name,
        family,
        _number(steps),
        _billions(tokens),
        _yes(tied),
        licence,
        str(defects),
        _yes(readable),
    ]


def _facts_shown(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    steps, corpus = facts["steps"], facts["corpus"]
    pairs = [
        ("checkpoints", f"{_number(steps['expected'])} expected, one per {facts['where']}"),
        ("steps", f"{steps['rule'] or 'no rule known'}; last {_number(steps['last'])}"),
        ("repositories", ", ".join(facts["repositories"])),
        ("branch", facts["branch"]),
        ("tokens per step", _per_step(facts["tokens_per_step"])),
        ("tokens at last", _billions(steps["tokens_seen_at_last"])),
        ("main is step", _number(facts["main"])),
        ("rows, tokenizer", f"{_number(facts['rows'])}, {_number(facts['tokenizer_size'])}"),
        ("hidden size", _number(facts["hidden_size"])),
        ("tied", _yes(facts["tied"])),
        ("parameters", _number(facts["parameters"])),
        ("format", f"{facts['format']}; {facts['dtype'] or 'dtype not known'}"),
        *_cost(facts["cost"]),
        ("corpus", f"{corpus['name']}; {corpus['where']}"),
        ("token stream", corpus["stream"] and corpus["stream"]["dataset"]),
        ("licence", facts["licence"]),
        ("evidence", facts["evidence"]),
        ("not readable", facts["unreadable_because"]),
        ("notes", facts["notes"]),
    ]
    return [(f"  {key}", value) for key, value in pairs if value]


def _cost(cost: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if cost is None:
        return [("cost", "unknown, as the shapes are unknown")]
    part, model = cost["bytes_per_checkpoint"], cost["whole_model_bytes_per_checkpoint"]
    assumed = f" (assuming {', '.join(cost['assumed'])})" if cost["assumed"] else ""
    share = f" of {size(model)}, {cost['share']:.1%}" if model else ""
    pairs = [("one checkpoint", f"{size(part)}{share}{assumed}")]
    if cost["bytes"]:
        against = f" of {size(cost['whole_model_bytes'])}" if model else ""
        fewest, most = cost["requests"]
        requests = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        pairs.append(("whole series", f"{size(cost['bytes'])}{against}, about {requests} requests"))
    return pairs


def _defect(defect: "Defect") -> str:
    words = [defect.kind.replace("_", " "), *(["repaired"] if defect.repaired else [])]
    steps = f" steps {defect.steps}:" if defect.steps else ""
    origin = ", ".join(filter(None, [defect.url, defect.source]))
    return f"{', '.join(words)}:{steps} {defect.what} [{origin}]"


def _section(title: str, items: Iterable[str]) -> list[str]:
    lines = [f"    {item}" for item in items]
    return [f"  {title}", *lines] if lines else []


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _per_step(value: int | Mapping[int, int] | None) -> str:
    if isinstance(value, Mapping):
        return ", then ".join(f"{tokens:,} from step {step:,}" for step, tokens in value.items())
    return _number(value)


def _billions(tokens: int | None) -> str:
    return "?" if tokens is None else f"{tokens / 1e9:,.0f}B"


def _yes(value: bool | None) -> str:
    return "?" if value is None else ("yes" if value else "no")
