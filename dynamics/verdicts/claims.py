"""Claims from pilot trainings of this project, stated before a study.

The pilots were single trainings of tiny models on one corpus each (two layers of width 48 on the
documentation of Python; three layers of width 96 on children's books): effects to look for, not
constants. A claim is an entry of `CLAIMS`: the arms it applies to, a quantity, and the range that
the quantity should be in; `judge` compares it with runs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dynamics.runs.compare import Quantity

INPUT, OUTPUT = "input_embedding_norm", "output_embedding_norm"
UNIFORM, UNIGRAM = f"{OUTPUT}_centered", f"{OUTPUT}_centered_frequency"

SAME_TOKENS = "log_slope_of_twinned"
"""The observational slope over the tokens that have a twin, which `twin_log_slope` is about."""

UNTIED_ADAMW = {"model.tied": False, "training.optimizer": "adamw"}
UNTIED_SGD = {"model.tied": False, "training.optimizer": "sgd"}
TIED_ADAMW = {"model.tied": True, "training.optimizer": "adamw"}
UNTIED = {"model.tied": False}


@dataclass(frozen=True)
class Claim:
    """An expectation about one quantity of some arms, as a range.

    Attributes:
        name: The claim as a sentence.
        expected: Sign and size in the pilots.
        arms: Settings that a training must have for the claim to apply.
        quantity: The quantity that is measured.
        above: Lower end of the range that confirms the claim.
        below: Upper end.
        minus: Quantity of the same run that is subtracted.
        minus_arm: Settings changed in the arm whose quantity is subtracted.
        free: Further settings in which that arm may differ, because they go with those changed.
        centrings: True for a claim about output norms without the uniform mean that has to hold
            without the unigram mean too: one centring alone decides nothing.
    """

    name: str
    expected: str
    arms: Mapping[str, Any]
    quantity: Quantity
    above: float = -math.inf
    below: float = math.inf
    minus: Quantity | None = None
    minus_arm: Mapping[str, Any] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    centrings: bool = False

    @property
    def quantities(self) -> tuple[tuple[Quantity, Quantity | None], ...]:
        """Measured quantity and the one subtracted from it, for each centring that counts."""
        if not self.centrings:
            return ((self.quantity, self.minus),)
        return tuple(
            (_of(measure, self.quantity), self.minus and _of(measure, self.minus))
            for measure in (UNIFORM, UNIGRAM)
        )


def _of(measure: str, quantity: Quantity) -> Quantity:
    """The same quantity of another measure."""
    return replace(quantity, measure=measure)


def _frequency(measure: str, statistic: str = "spearman", step: Any = "last") -> Quantity:
    """A statistic of a norm or embedding and log frequency."""
    return Quantity(measure, "log_frequency", statistic, at=step)


def _surgery(measure: str) -> Quantity:
    """Change of the held-out loss when the norms are shuffled over tokens."""
    return Quantity(measure, "held_out_loss", "surgery_shuffled")


def _read_out(role: str, features: str) -> Quantity:
    """Share of the variance of log frequency that is read out of an embedding."""
    return Quantity(role, "log_frequency", "readout_r2", features)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "Input norms do not correlate with frequency before training.",
        "+.00 and +.04",
        {},
        _frequency(INPUT, step="first"),
        above=-0.05,
        below=0.05,
    ),
    Claim(
        "Untied input rows of frequent tokens become longer under AdamW.",
        "+.60",
        UNTIED_ADAMW,
        _frequency(INPUT),
        above=0.2,
    ),
    Claim(
        "Untied input rows of frequent tokens become longer under SGD too.",
        "+.75",
        UNTIED_SGD,
        _frequency(INPUT),
        above=0.2,
    ),
    Claim(
        "Without weight decay the correlation of input norms is nearly the same (a weak test, as "
        "weak as the decay is).",
        "-.01",
        UNTIED_ADAMW | {"training.weight_decay": 0.0},
        _frequency(INPUT),
        above=-0.1,
        below=0.1,
        minus_arm={"training.weight_decay": 0.1},
    ),
    Claim(
        "Raw rows of rare tokens become longer in tied models.",
        "-.93",
        TIED_ADAMW,
        _frequency(OUTPUT),
        below=-0.2,
    ),
    Claim(
        "Removing the uniform mean takes that away.",
        "+1.03, from -.93 to +.10",
        TIED_ADAMW,
        _frequency(UNIFORM),
        above=0.3,
        minus=_frequency(OUTPUT),
    ),
    Claim(
        "Raw output rows of rare tokens become longer under AdamW.",
        "-.92 and -.47",
        UNTIED_ADAMW,
        _frequency(OUTPUT),
        below=-0.2,
    ),
    Claim(
        "SGD gives raw output norms the other sign.",
        "+1.55 and +1.11",
        UNTIED_SGD,
        _frequency(OUTPUT),
        above=0.3,
        minus_arm={"training.optimizer": "adamw"},
        free=("training.learning_rate",),
    ),
    Claim(
        "Under AdamW output rows of frequent tokens are longer without the uniform mean ...",
        "+.24",
        UNTIED_ADAMW,
        _frequency(UNIFORM),
        above=0.0,
    ),
    Claim(
        "... and shorter without the unigram mean: the centrings disagree.",
        "-.48",
        UNTIED_ADAMW,
        _frequency(UNIGRAM),
        below=0.0,
    ),
    Claim(
        "Under SGD output rows of frequent tokens are longer without the uniform mean ...",
        "+.60",
        UNTIED_SGD,
        _frequency(UNIFORM),
        above=0.0,
    ),
    Claim(
        "... and without the unigram mean: the centrings agree.",
        "+.11",
        UNTIED_SGD,
        _frequency(UNIGRAM),
        above=0.0,
    ),
    Claim(
        "Input rows that never occur only decay (largest relative error).",
        "6e-7",
        UNTIED,
        Quantity(INPUT, statistic="unseen_row_error"),
        below=1e-5,
    ),
    Claim(
        "Twins: frequency lengthens input rows more than the observational slope over the same "
        "tokens says.",
        "+.051, +.106 against +.055 over all tokens",
        UNTIED_ADAMW,
        _frequency(INPUT, "twin_log_slope"),
        above=0.0,
        minus=_frequency(INPUT, SAME_TOKENS),
    ),
    Claim(
        "Twins: frequency shortens centred output rows, under both centrings ...",
        "-.112 without the uniform mean",
        UNTIED_ADAMW,
        _frequency(UNIFORM, "twin_log_slope"),
        below=0.0,
        centrings=True,
    ),
    Claim(
        "... where the observational slope over the same tokens is positive, under both centrings.",
        "+.093 over all tokens, without the uniform mean",
        UNTIED_ADAMW,
        _frequency(UNIFORM, SAME_TOKENS),
        above=0.0,
        centrings=True,
    ),
    Claim(
        "Under SGD the two slopes of input rows nearly agree over the same tokens.",
        "about 0",
        UNTIED_SGD,
        _frequency(INPUT, "twin_log_slope"),
        above=-0.05,
        below=0.05,
        minus=_frequency(INPUT, SAME_TOKENS),
    ),
    Claim(
        "Shuffling input norms costs next to nothing (nats).",
        "at most +.0015",
        UNTIED,
        _surgery(INPUT),
        below=0.02,
    ),
    Claim(
        "Shuffling output norms without the uniform mean costs much (nats).",
        "+2.4 to +4.5",
        UNTIED,
        _surgery(UNIFORM),
        above=0.5,
    ),
    Claim(
        "Yet input norms correlate with occlusion beyond frequency.",
        "+.28 and +.38",
        UNTIED_ADAMW,
        Quantity(INPUT, "occlusion", "partial_spearman"),
        above=0.0,
    ),
    Claim(
        "Norm and occlusion do not correlate before training.",
        "-.01 and +.04",
        UNTIED_ADAMW,
        Quantity(INPUT, "occlusion", at="first"),
        above=-0.1,
        below=0.1,
    ),
    Claim(
        "The halves of norm-matched occlusion agree better after training.",
        "+.44, from .39 to .83",
        UNTIED_ADAMW,
        Quantity("occlusion_norm_matched", statistic="reliability"),
        above=0.2,
        minus=Quantity("occlusion_norm_matched", statistic="reliability", at="first"),
    ),
    Claim(
        "Input norms carry information gain about the right context beyond frequency.",
        "+.29",
        UNTIED_ADAMW,
        Quantity(INPUT, "information_gain_right", "partial_spearman"),
        above=0.0,
    ),
    Claim(
        "Output norms carry information gain about the left context beyond frequency, under both "
        "centrings.",
        "+.81 with a window of 1",
        UNTIED_ADAMW,
        Quantity(UNIFORM, "information_gain_left", "partial_spearman"),
        above=0.0,
        centrings=True,
    ),
    Claim(
        "Within inputs the norm does not agree with occlusion.",
        "-.07",
        UNTIED_ADAMW,
        Quantity("norm", "occlusion", "within_input_agreement"),
        below=0.1,
    ),
    Claim(
        "Frequency is read out of output rows almost completely (R²).",
        "+.92",
        {},
        _read_out("output_embedding", "rows"),
        above=0.8,
    ),
    Claim(
        "Of input rows the norm alone tells more of frequency than a line through the row (R²).",
        "+.32, .43 against .11",
        UNTIED_ADAMW,
        _read_out("input_embedding", "norm"),
        above=0.0,
        minus=_read_out("input_embedding", "rows"),
    ),
    Claim(
        "Output rows can be read for frequency before input norms correlate with it (steps, each "
        "known to the checkpoint before).",
        "32 to 64 against 256",
        UNTIED_ADAMW,
        _frequency("output_embedding", "readout_r2_onset"),
        below=0.0,
        minus=_frequency(INPUT, "spearman_onset"),
    ),
)
