"""The questions that a study's page answers, with the columns of each table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dynamics.report.statistics_over_steps import READ_OUTS, SURGERY_LINES
from dynamics.runs.compare import ONSET, Quantity
from dynamics.runs.measures import shown_measures
from dynamics.runs.slope_trends import CAUSAL, MINUS_CURVE, OBSERVED, PSEUDO_PAIRS, THIRDS
from dynamics.runs.surgeries import BINS, NEIGHBOURS, TOP_BIN_SHARE
from dynamics.verdicts.claims import INPUT, UNIFORM

GAUGES = {name: label.short for name, label in shown_measures().items()}

_UNSEEN_ROW_ERROR = Quantity(INPUT, statistic="unseen_row_error")


@dataclass(frozen=True)
class Column:
    """One number per arm.

    Attributes:
        title: Head of the column.
        quantity: Quantity in the column.
        minus: Quantity of the same run that is subtracted.
        number_format: Format of the numbers; None for that of steps or of correlations.
    """

    title: str
    quantity: Quantity
    minus: Quantity | None = None
    number_format: str | None = None

    @property
    def is_step(self) -> bool:
        """Return whether the quantity is the step of an onset."""
        return self.quantity.statistic.endswith(ONSET)

    @property
    def format(self) -> str:
        """Format of the numbers in the column."""
        return self.number_format or (",.0f" if self.is_step else "+.3f")


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
        tables: Columns of each table that answers the question, by the title above the table; ''
            where there is one table only. A table has a row for each arm.
        figures: Names out of `FIGURES` that show it.
        swept: Label of each measure whose correlation with frequency at the last step is shown
            under every vocabulary rule.
        signs: Meaning of the sign of output norms, where both centrings agree on it.
        added_by: Setting with which it is measured, where that is not the default.
    """

    title: str
    text: str
    tables: Mapping[str, Sequence[Column]]
    figures: tuple[str, ...] = ()
    signs: Signs | None = None
    swept: Mapping[str, str] = field(default_factory=dict)
    added_by: str = ""


def _of_gauges(step: Literal["first", "last"]) -> tuple[Column, ...]:
    """Correlation of each norm with frequency at a step."""
    return tuple(
        Column(label, Quantity(gauge, "log_frequency", at=step)) for gauge, label in GAUGES.items()
    )


def _twins(gauge: str) -> tuple[Column, ...]:
    """Slopes of a norm within twins, beyond the curve of ordinary tokens, and over tokens."""
    return (
        Column("within twins", Quantity(gauge, "log_frequency", CAUSAL)),
        Column("within twins minus curve", Quantity(gauge, "log_frequency", MINUS_CURVE, "")),
        *(
            Column(f"minus curve, {third}", Quantity(gauge, "log_frequency", MINUS_CURVE, third))
            for third in THIRDS
        ),
        Column(
            "pseudo-pairs minus curve (truth 0)",
            Quantity(gauge, "log_frequency", PSEUDO_PAIRS, ""),
        ),
        Column("over all tokens", Quantity(gauge, "log_frequency", OBSERVED)),
    )


def _surgeries(gauge: str) -> tuple[Column, ...]:
    """Change of the held-out loss under each surgery on a norm."""
    return tuple(
        Column(label, Quantity(gauge, "held_out_loss", name), number_format="+.4f")
        for name, label in SURGERY_LINES.items()
    )


def _read_outs(role: str) -> tuple[Column, ...]:
    """Read-outs of frequency from an embedding, by what they are from."""
    return tuple(
        Column(
            features.replace("_", " ").replace("+", " and "),
            Quantity(role, "log_frequency", "readout_r2", features),
        )
        for features in READ_OUTS
    )


def _onset(label: str, measure: str, statistic: str, features: str) -> Column:
    """Step from which on a correlation or read-out stays near its final value."""
    return Column(label, Quantity(measure, "log_frequency", statistic, features))


def _information_gain(gauge: str) -> tuple[Column, ...]:
    """Correlations of a norm with information gain, raw and partial, by side."""
    return tuple(
        Column(f"{kind}, {side}", Quantity(gauge, f"information_gain_{side}", statistic))
        for side in ("right", "left")
        for statistic, kind in (
            ("spearman", "raw"),
            ("partial_spearman", "partial"),
            ("spearman_disattenuated", "raw, disattenuated"),
        )
    )


_RELIABILITY = tuple(
    Column(
        f"{kind}, {side}",
        Quantity(f"information_gain_{side}", statistic=statistic),
        number_format=".2f",
    )
    for side in ("right", "left")
    for statistic, kind in (
        ("reliability", "of the gain"),
        ("partial_reliability", "of what is left of it"),
    )
)


SECTIONS: tuple[Section, ...] = (
    Section(
        "Do norms come to correlate with frequency?",
        "Spearman correlation of norm and log frequency. Statements about output norms are "
        "made only where both centrings agree; raw output norms are not identifiable in untied "
        "models without a cap on their logits.",
        {"At the last step": _of_gauges("last"), "At step 0": _of_gauges("first")},
        ("correlation", "norms_by_frequency", "norm_against_frequency"),
        Signs(
            "spearman",
            "frequent tokens have the longer output rows",
            "rare tokens have the longer output rows",
        ),
        GAUGES,
    ),
    Section(
        "Do rows that never occur obey pure decay?",
        "Largest relative error, over input rows that never occur, of norm(t) = norm(0) · Π (1 - "
        "learning rate · weight decay). Tied rows are targets too, and do not follow this law.",
        {"": [Column("largest relative error", _UNSEEN_ROW_ERROR, number_format=".1e")]},
    ),
    Section(
        "Does frequency itself move norms?",
        "Slope of log norm on log frequency: within pairs of a token and its twin, a second id "
        "drawn by chance at each occurrence, and over tokens, which differ in more than frequency. "
        "The relation over tokens is no straight line, so that pairs are compared with its curve "
        "at their counts. Pairs of ordinary tokens at the same counts, whose truth is 0, "
        "show what the curve misses. Intervals are over seeds; a seed's own are in its run.",
        {f"Norm: {label}": _twins(gauge) for gauge, label in GAUGES.items()},
        ("slopes",),
        Signs("twin_log_slope", "frequency lengthens output rows", "frequency shortens them"),
    ),
    Section(
        "What are the norms good for?",
        "Change of the held-out loss in nats per target when norms are replaced and directions "
        f"kept. The top one of {BINS} bins of frequency holds few tokens and many of all "
        f"occurrences; it is shuffled inside by itself too, as are bins of {NEIGHBOURS} neighbours "
        "in frequency. All rows doubled or halved show what the model makes of scale as such: "
        "where that costs nothing, as in front of a LayerNorm, shuffling can cost little whatever "
        "norms mean.",
        {
            "Norms of input rows": _surgeries(INPUT),
            "Norms of output rows, uniform mean removed": _surgeries(UNIFORM),
            "Occurrences in the top bin of frequency": [
                Column("share", Quantity("log_frequency", "", TOP_BIN_SHARE), number_format=".0%")
            ],
        },
        ("surgery",),
    ),
    Section(
        "Does a norm explain predictions inside an input?",
        "Mean over inputs of the Spearman correlation, within one input, of each method's scores "
        "with occlusion's, the read-out position left out.",
        {
            "": [
                Column(
                    method.replace("_", " "),
                    Quantity(method, "occlusion", "within_input_agreement"),
                )
                for method in (
                    *("norm", "inverse_log_frequency", "recency"),
                    *("logit", "normxlogit", "gradient_x_input"),
                )
            ]
        },
        ("agreement",),
    ),
    Section(
        "Can frequency be read out of the matrices?",
        "Cross-validated R² of log frequency, ridge regression, from the rows, from their "
        "directions, from their norms alone, and from directions and norms.",
        {
            "Input embedding": _read_outs("input_embedding"),
            "Output embedding": _read_outs("output_embedding"),
        },
        ("matrices",),
        added_by="tracking.measures=distances,readouts",
    ),
    Section(
        "When does it happen?",
        "Onset: first step from which on the value stays beyond half its final distance from step "
        "0; a seed whose final value may not differ from step 0 has no onset and does not enter. "
        "An onset lies between the checkpoint before and the one given; intervals are widened by "
        "that distance. Where step 0 was not looked at, the change of a correlation with frequency "
        "is that from 0, and an onset at the first step is at or before it.",
        {
            "": [
                *(
                    _onset(f"ρ, {label}", gauge, "spearman_onset", "")
                    for gauge, label in GAUGES.items()
                ),
                _onset("R², input rows", "input_embedding", "readout_r2_onset", "rows"),
                _onset("R², output rows", "output_embedding", "readout_r2_onset", "rows"),
            ]
        },
    ),
    Section(
        "Do norms carry information gain beyond frequency?",
        "Spearman correlation of norm and information gain about the context to one side, counted "
        "from equally many pairs for every token; partial: given frequency and spelling. The "
        "reliability is that of gain counted in halves of the documents, and of what frequency and "
        "spelling leave of it; error alone multiplies a raw correlation by about the square root "
        "of the first, a partial one by that of the second. Disattenuated: divided by it.",
        {
            "Reliability of information gain": _RELIABILITY,
            **{f"Norm: {label}": _information_gain(gauge) for gauge, label in GAUGES.items()},
        },
    ),
)
