"""The page of a study: what was run, tables over its arms and seeds, claims judged, figures.

Everything on it is computed from the tables of the runs, except the texts of questions and claims.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from dynamics.files import whole_file
from dynamics.progress import Report, no_report
from dynamics.report.figures import plot
from dynamics.report.importance import importances_of
from dynamics.report.study_cells import NOTHING, cell, markdown, plain
from dynamics.report.study_checks import crossed_tables, rules_table, turning_signs
from dynamics.report.study_claims import claims_section
from dynamics.report.study_sections import SECTIONS, Column, Section, Signs
from dynamics.runs.compare import Arm, Quantity, arm_mean, arms_of
from dynamics.runs.derived import untouched_row_factor
from dynamics.runs.grouping import Arms, apart_lines
from dynamics.runs.measures import identifiable_measures
from dynamics.runs.run import Run
from dynamics.statistics.seeds import FEWEST_SEEDS
from dynamics.verdicts.claims import UNIFORM, UNIGRAM, read_claims
from dynamics.verdicts.judgement import Judgement, judge_study

NOT_MEASURED = "Not measured in these runs."


def write_page(
    page: Path,
    runs: Sequence[Run],
    *,
    title: str,
    command: str = "",
    grouping: Arms | None = None,
    judgement: Judgement | None = None,
    report: Report = no_report,
) -> list[Path]:
    """Write the page of a study as Markdown, with its figures in a folder of its name beside it.

    Args:
        page: Path of the page; the figures of `tiny.md` go to `tiny/`.
        runs: Runs of all arms and seeds.
        title: Name of the study.
        command: Command that makes the page again, '' for none.
        grouping: Runs of each arm by its name, where it is set; see `arms_of`.
        judgement: Verdicts on claims about these runs; by default those of the current claims that
            come with the program.
        report: Receives a line for each figure that is left out; none where a run has no counts,
            because the page then has no figures.

    Returns:
        The figures.

    Raises:
        MismatchError: Two runs are of different tokenizers; both are named.
        OutputError: There is no run, or a table of one is damaged.
    """
    arms = arms_of(runs, grouping)
    if judgement is None:
        judgement = judge_study(arms, read_claims())
    counted = all(run.rule is not None for run in runs)
    folder = page.with_suffix("")
    figures = plot(runs, folder, formats=["png"], arms=grouping, report=report) if counted else []
    drawn = {file.stem: _picture(file) for file in figures}
    parts = [
        f"# Study: {title}",
        *_what_was_run(arms, command),
        *claims_section(judgement),
        *(part for section in SECTIONS for part in _section(section, arms, drawn)),
        *_importance(arms, drawn),
    ]
    shown = "\n\n".join(parts)
    further = [f"![{name}]{picture}" for name, picture in drawn.items() if picture not in shown]
    parts += ["## Further figures", *further] if further else []
    with whole_file(page) as partial:
        partial.write_text("\n\n".join(parts) + "\n", "utf-8")
    return figures


def _picture(file: Path) -> str:
    """Return the path of a picture for a page beside its folder, and its caption where it has one.

    The path is in parentheses, as it follows the text in brackets.
    """
    path = f"({file.parent.name}/{file.name})"
    caption = file.with_suffix(".txt")
    return f"{path}\n\n{plain(caption.read_text('utf-8').strip())}" if caption.exists() else path


def _what_was_run(arms: Sequence[Arm], command: str) -> Iterator[str]:
    """Paragraphs and table on arms, seeds, corpus and versions."""
    origin = f"Made by `{command}` from the tables of its runs. " if command else ""
    yield (
        f"{origin}Cells are means over seeds with 95 % t intervals [low, high], correlations "
        "averaged on Fisher's z scale; the seed is the unit of inference. Intervals over seeds say "
        "nothing about other tokens, because all seeds share theirs; where it is said, they are "
        "over seeds and tokens together."
    )
    few = [plain(arm.name) for arm in arms if arm.descriptive]
    if few:
        yield (
            f"Fewer than {FEWEST_SEEDS} seeds, so that their intervals are only descriptive: "
            f"{', '.join(few)}."
        )
    yield "## What was run"
    heads = ["arm", "seeds", "steps", "tokens", "parameters", "optimizer", "weight decay", "tied"]
    yield markdown(heads, [[arm.name, *_facts(arm)] for arm in arms])
    apart = apart_lines(arms)
    if apart:
        yield f"What keeps arms apart: {'; '.join(map(plain, apart))}."
    yield from _decay(arms)
    varies = sorted({arm.varies for arm in arms} - {""})
    if varies:
        yield f"Seeds of an arm differ in {'; '.join(varies)}."
    first = arms[0].runs[0]
    counts = first.record.counts
    versions = ", ".join(f"{name} {number}" for name, number in first.record.versions.items())
    corpus = f"Corpus {counts['corpus_digest'][:16]}, " if counts else ""
    sha256 = counts["tokenizer_sha256"] if counts else None
    tokenizer = f"tokenizer {sha256[:16]}, " if sha256 else ""
    rule = f"{first.kept.sum():,} tokens by the rule {first.rule}; " if first.rule else ""
    yield f"{corpus}{tokenizer}{rule}{versions}."


def _facts(arm: Arm) -> list[str]:
    """Cells of an arm in the table of what was run."""
    run, training = arm.runs[0], arm.training.get("training")
    seeds = f"{len(arm.runs)} ({', '.join(seed or 'default' for seed in arm.seeds)})"
    tied = "yes" if run.record.series.tied else "no"
    if training is None:
        tokens = run.record.checkpoints[-1].tokens_seen
        return [
            *(seeds, f"{run.steps[-1]:,}", NOTHING if tokens is None else f"{tokens:,}"),
            *(NOTHING, NOTHING, NOTHING, tied),
        ]
    tokens = training["steps"] * training["batch_size"] * training["sequence_length"]
    return [
        *(seeds, f"{training['steps']:,}", f"{tokens:,}", _parameters(run)),
        *(training["optimizer"], f"{training['weight_decay']:g}", tied),
    ]


def _decay(arms: Sequence[Arm]) -> Iterator[str]:
    """Remaining share of an unused row's norm in each arm with weight decay."""
    factors = [(arm, untouched_row_factor(arm.runs[0])) for arm in arms]
    decayed = [
        f"{plain(arm.name)} {factor:.3f}"
        for arm, factor in factors
        if factor is not None and factor < 1
    ]
    if decayed:
        yield (
            "Share that weight decay leaves, over the whole training, of the norm of a row without "
            f"a gradient: {', '.join(decayed)}. The nearer to 1, the weaker a comparison with an "
            "arm without decay tests weight decay."
        )


def _parameters(run: Run) -> str:
    """Number of parameters, from the header of the last checkpoint where that is beside the run."""
    step = f"step-{run.steps[-1]:08d}"
    file = run.path.parent / "training" / "checkpoints" / step / "model.safetensors"
    if not file.exists():
        return NOTHING
    with safe_open(file, framework="numpy") as tensors:
        shapes = [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118
    return f"{sum(int(np.prod(shape)) for shape in shapes):,}"


def _section(section: Section, arms: Sequence[Arm], drawn: dict[str, str]) -> Iterator[str]:
    """Heading, text, tables and figures of a section; a line where nothing was measured."""
    yield f"## {section.title}"
    tables = [
        (title, text)
        for title, columns in section.tables.items()
        if (text := _table(columns, arms)) is not None
    ]
    if not tables:
        added_by = f" A new run with `{section.added_by}` has it." if section.added_by else ""
        yield NOT_MEASURED + added_by
        return
    yield section.text
    for name, text in [*tables, *crossed_tables(section.tables, arms)]:
        yield f"**{name}**\n\n{text}" if name else text
    if section.swept:
        yield from _under_other_rules(section.swept, arms)
    if section.signs is not None:
        yield from _centrings(arms, section.signs)
    for figure in section.figures:
        if figure in drawn:
            yield f"![{section.title}]{drawn[figure]}"


def _under_other_rules(measures: Mapping[str, str], arms: Sequence[Arm]) -> Iterator[str]:
    """Table of correlations with frequency under every vocabulary rule, and where signs turn."""
    table = rules_table(measures, "log_frequency", arms)
    if table is None:
        return
    yield f"**At the last step, under every vocabulary rule: intervals over seeds**\n\n{table}"
    quantities = {
        label: Quantity(measure, "log_frequency", given="") for measure, label in measures.items()
    }
    yield turning_signs(quantities, arms)


def _centrings(arms: Sequence[Arm], meaning: Signs) -> Iterator[str]:
    """Arms grouped by the sign of output norms under both centrings, as far as it is decided."""
    arms_by_verdict: dict[str, list[str]] = {}
    for arm in arms:
        means = [
            arm_mean(arm, Quantity(gauge, "log_frequency", meaning.statistic))
            for gauge in (UNIFORM, UNIGRAM)
        ]
        if not any(mean.n > 0 for mean in means):
            continue
        # 1 or -1, or 0 where the interval covers 0 or is missing
        signs = {int(mean.low > 0) - int(mean.high < 0) for mean in means}
        verdict = {
            frozenset({1}): f"{meaning.positive} under both centrings",
            frozenset({-1}): f"{meaning.negative} under both centrings",
            frozenset({1, -1}): "the two centrings have opposite signs, so no sign is decided",
        }.get(frozenset(signs), "no sign of output norms is decided")
        arms_by_verdict.setdefault(verdict, []).append(plain(arm.name))
    sentences = [f"{', '.join(names)}: {verdict}" for verdict, names in arms_by_verdict.items()]
    if sentences:
        yield f"{'; '.join(sentences)}."


def _table(columns: Sequence[Column], arms: Sequence[Arm]) -> str | None:
    """Markdown table with a row for each arm; None when every cell is empty."""
    cells = [[_cell(arm, column) for column in columns] for arm in arms]
    shown = [index for index in range(len(columns)) if any(row[index] != NOTHING for row in cells)]
    if not shown:
        return None
    rows = [
        [arm.name, *(row[index] for index in shown)] for arm, row in zip(arms, cells, strict=True)
    ]
    return markdown(["arm", *(columns[index].title for index in shown)], rows)


def _cell(arm: Arm, column: Column) -> str:
    """Mean and interval of an arm, with its seeds where not all have a value."""
    quantity = column.quantity
    mean = arm_mean(arm, quantity, column.minus)
    few = "" if mean.n == len(arm.runs) else f"{int(mean.n)} of {len(arm.runs)} seeds"
    text = cell(mean, column.format)
    if text != NOTHING and column.is_step and _begins_unseen(arm, quantity):
        text = f"at or before {text}"
    if text != NOTHING:
        return f"{text} ({few})" if few else text
    # An onset that was looked for but that no seed has is not a missing measurement.
    is_missing = (
        not column.is_step
        or arm.rows(quantity.measure, quantity.against, quantity.statistic, quantity.given).empty
    )
    return text if is_missing else f"{few} have one"


def _begins_unseen(arm: Arm, quantity: Quantity) -> bool:
    """Return whether no step before the onset was looked at in any seed that has one."""
    known = arm.rows_by_seed(quantity)["low"].dropna()
    return arm.runs[0].steps[0] > 0 and bool((known == 0).all())


def _importance_checks(
    gauge: str, label: str, names: Sequence[str], arms: Sequence[Arm]
) -> Iterator[str]:
    """Correlations of a norm with importances over seeds and tokens, and under other rules."""
    kinds = {"raw": "spearman", "partial": "partial_spearman"}
    columns = [
        Column(f"{name.replace('_', ' ')}, {kind}", Quantity(gauge, name, statistic))
        for name in names
        for kind, statistic in kinds.items()
    ]
    for title, table in crossed_tables({f"Norm: {label}": columns}, arms):
        yield f"**{title}**\n\n{table}"
    quantities = {f"{label}, {column.title}": column.quantity for column in columns}
    if sentence := turning_signs(quantities, arms):
        yield sentence


def _importance(arms: Sequence[Arm], drawn: dict[str, str]) -> Iterator[str]:
    """Table of each norm and importance: raw, partial, changes, within bins, reliability."""
    yield "## Do norms come to encode importance?"
    names = importances_of(arms)
    if not names:
        yield NOT_MEASURED
        return
    yield (
        "Spearman correlation of norm and importance at the last step; partial: given frequency, "
        "spelling and merge rank; change: the difference from the first step at which importance "
        "was measured, which is what training adds; within bins of frequency; and the split-half "
        "reliability of the importance; below .7 a trend may be one of measurement error. "
        "Onset: first step, of those at which importance was measured, from which on the "
        "correlation stays beyond half its final change; it lies between the step before and the "
        "one given, and at or before the first step looked at where that is not step 0. Statements "
        "about output norms are made only where both centrings agree."
    )
    for gauge, label in identifiable_measures().items():
        columns = {
            "raw": "spearman",
            "change of raw": "spearman_minus_first",
            "partial": "partial_spearman",
            "change of partial": "partial_spearman_minus_first",
            "within bins": "within_bin_spearman",
            "onset of raw": "spearman_onset",
            "onset of partial": "partial_spearman_onset",
        }
        rows = [
            [
                name.replace("_", " "),
                arm.name,
                *(
                    _cell(arm, Column(title, Quantity(gauge, name, statistic)))
                    for title, statistic in columns.items()
                ),
                _cell(
                    arm, Column("reliability", Quantity(name, statistic="reliability"), None, ".2f")
                ),
            ]
            for name in names
            for arm in arms
        ]
        rows = [row for row in rows if row[2] != NOTHING]
        if rows:
            table = markdown(["importance", "arm", *columns, "reliability"], rows)
            yield f"**Norm: {label.short}**\n\n{table}"
        yield from _importance_checks(gauge, label.short, names, arms)
    for figure in ("headline", "importance", "norm_against_importance"):
        if figure in drawn:
            yield f"![Norms and importance]{drawn[figure]}"
