"""The questions that a study's page answers, with the columns of each table."""

from dataclasses import dataclass
from typing import Literal

from dynamics.runs.compare import Quantity
from dynamics.runs.measures import shown_measures
from dynamics.verdicts.claims import INPUT, SAME_TOKENS, UNIFORM

GAUGES = {name: label.short for name, label in shown_measures().items()}


@dataclass(frozen=True)
class Column:
    """One number per arm.

    Attributes:
        title: Head of the column.
        quantity: Quantity in the column.
        minus: Quantity of the same run that is subtracted.
        format: Format of the numbers.
    """

    title: str
    quantity: Quantity
    minus: Quantity | None = None
    format: str = "+.3f"


@dataclass(frozen=True)
class Table:
    """A row for each arm, mean and interval over seeds.

    Attributes:
        title: Title above the table; '' where there is one table only.
        columns: Columns of the table.
    """

    title: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Signs:
    """Meaning of the sign of a statistic of output norms and log frequency.

    Attributes:
        statistic: As in `trends.parquet`.
        positive: Meaning of a positive sign.
        negative: Meaning of a negative sign.
    """

    statistic: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Section:
    """One question.

    Attributes:
        title: The question.
        text: Explanation of the tables.
        tables: Tables that answer the question.
        figures: Names out of `FIGURES` that show it.
        signs: Meaning of the sign of output norms, where both centrings agree on it.
    """

    title: str
    text: str
    tables: tuple[Table, ...]
    figures: tuple[str, ...] = ()
    signs: Signs | None = None


def _of_gauges(step: Literal["first", "last"]) -> tuple[Column, ...]:
    return tuple(
        Column(label, Quantity(gauge, "log_frequency", at=step)) for gauge, label in GAUGES.items()
    )


def _twins(gauge: str) -> tuple[Column, ...]:
    causal = Quantity(gauge, "log_frequency", "twin_log_slope")
    same = Quantity(gauge, "log_frequency", SAME_TOKENS)
    return (
        Column("causal (within twins)", causal),
        Column("observational, same tokens", same),
        Column("causal minus observational, same tokens", causal, same),
        Column("observational, all tokens", Quantity(gauge, "log_frequency", "log_slope")),
    )


def _surgeries(gauge: str) -> tuple[Column, ...]:
    kinds = ("equalized", "shuffled", "shuffled_within_bins", "fitted")
    return tuple(
        Column(
            kind.replace("_", " "),
            Quantity(gauge, "held_out_loss", f"surgery_{kind}"),
            format="+.4f",
        )
        for kind in kinds
    )


def _read_outs(role: str) -> tuple[Column, ...]:
    return tuple(
        Column(
            features.replace("_", " ").replace("+", " and "),
            Quantity(role, "log_frequency", "readout_r2", features),
        )
        for features in ("rows", "unit_rows", "norm", "unit_rows+norm")
    )


def _onset(label: str, measure: str, statistic: str, features: str) -> Column:
    return Column(label, Quantity(measure, "log_frequency", statistic, features), format=",.0f")


def _information_gain(gauge: str) -> tuple[Column, ...]:
    return tuple(
        Column(f"{kind}, {side}", Quantity(gauge, f"information_gain_{side}", statistic))
        for side in ("right", "left")
        for statistic, kind in (("spearman", "raw"), ("partial_spearman", "partial"))
    )


SECTIONS: tuple[Section, ...] = (
    Section(
        "Do norms come to correlate with frequency?",
        "Spearman correlation of norm and log frequency. Statements about output norms are "
        "made only where both centrings agree; raw output norms are not identifiable.",
        (
            Table("At the last step", _of_gauges("last")),
            Table("At step 0", _of_gauges("first")),
        ),
        ("correlation", "norms_by_frequency", "norm_against_frequency"),
        Signs(
            "spearman",
            "frequent tokens have the longer output rows",
            "rare tokens have the longer output rows",
        ),
    ),
    Section(
        "Do rows that never occur obey pure decay?",
        "Largest relative error, over input rows that never occur, of norm(t) = norm(0) · Π (1 - "
        "learning rate · weight decay). Tied rows are targets too, and obey nothing of the kind.",
        (
            Table(
                "",
                (
                    Column(
                        "largest relative error",
                        Quantity(INPUT, statistic="unseen_row_error"),
                        format=".1e",
                    ),
                ),
            ),
        ),
    ),
    Section(
        "Does frequency itself move norms?",
        "Slope of log norm on log frequency: within twins, tokens that were trained under two ids "
        "between which chance decided, and over tokens, which differ in more than frequency. The "
        "causal slope is compared with the one over the same tokens, those with a twin: they are "
        "frequent enough to be divided, and the relation over all need not be a straight line.",
        tuple(Table(f"Norm: {label}", _twins(gauge)) for gauge, label in GAUGES.items()),
        ("slopes",),
        Signs("twin_log_slope", "frequency lengthens output rows", "frequency shortens them"),
    ),
    Section(
        "What are the norms good for?",
        "Change of the held-out loss in nats per target when norms are replaced and directions "
        "kept: all equal, shuffled over tokens, shuffled within bins of frequency, or replaced by "
        "their fit on log frequency.",
        (
            Table("Norms of input rows", _surgeries(INPUT)),
            Table("Norms of output rows, uniform mean removed", _surgeries(UNIFORM)),
        ),
        ("surgery",),
    ),
    Section(
        "Does a norm explain predictions inside an input?",
        "Mean over inputs of the Spearman correlation, within one input, of each method's scores "
        "with occlusion's, the read-out position left out.",
        (
            Table(
                "",
                tuple(
                    Column(
                        method.replace("_", " "),
                        Quantity(method, "occlusion", "within_input_agreement"),
                    )
                    for method in (
                        *("norm", "inverse_log_frequency", "recency"),
                        *("logit", "normxlogit", "gradient_x_input"),
                    )
                ),
            ),
        ),
        ("agreement",),
    ),
    Section(
        "Can frequency be read out of the matrices?",
        "Cross-validated R² of log frequency, ridge regression, from the rows, from their "
        "directions, from their norms alone, and from directions and norms.",
        (
            Table("Input embedding", _read_outs("input_embedding")),
            Table("Output embedding", _read_outs("output_embedding")),
        ),
        ("matrices",),
    ),
    Section(
        "When does it happen?",
        "Onset: first step from which on the value stays beyond half its final distance from step "
        "0; a seed whose final value is not certain to have moved has none, and does not enter. It "
        "lies between the checkpoint before and the one given, by which intervals are wider.",
        (
            Table(
                "",
                (
                    *(
                        _onset(f"ρ, {label}", gauge, "spearman_onset", "")
                        for gauge, label in GAUGES.items()
                    ),
                    _onset("R², input rows", "input_embedding", "readout_r2_onset", "rows"),
                    _onset("R², output rows", "output_embedding", "readout_r2_onset", "rows"),
                ),
            ),
        ),
    ),
    Section(
        "Do norms carry information gain beyond frequency?",
        "Spearman correlation of norm and information gain about the context to one side, counted "
        "from equally many pairs for every token; partial: given frequency and spelling.",
        tuple(Table(f"Norm: {label}", _information_gain(gauge)) for gauge, label in GAUGES.items()),
    ),
)
