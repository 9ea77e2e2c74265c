"""The caption of the headline figure: its terms, and how its title decides."""

from collections.abc import Sequence

from dynamics.report.importance import controls_in_words, title_of
from dynamics.report.style import arms_note, bands_note
from dynamics.runs.arms import Arm
from dynamics.runs.differences import OVER_SEEDS, OVER_TOKENS
from dynamics.runs.headline import otherwise_under_rules
from dynamics.runs.importance_findings import POWER, given_of
from dynamics.runs.measures import identifiable_measures
from dynamics.statistics.reliability import RELIABLE
from dynamics.verdicts.claims import UNIGRAM


def headline_caption(
    arms: Sequence[Arm], measures: Sequence[str], importance: str | None, overlay: bool
) -> str:
    """Return the caption: correlations, controls, tokens, bands, and how the title decides."""
    norms = " and ".join(identifiable_measures()[name].sentence for name in measures)
    beyond = "importance was not measured"
    if importance is not None:
        controls = controls_in_words(given_of(arms[0].runs[0]))
        beyond = (
            f"with importance ({title_of(importance)}) given {controls}; and given the norm at the "
            "first step and the distance from it too"
        )
        if UNIGRAM in measures:
            beyond += " (not for norms with the unigram mean removed)"
    sentences = [
        f"Spearman correlation of {norms} with log frequency; {beyond}.",
        arms_note(arms),
        bands_note(arms),
        "Grey, chance: simultaneous 95 % null band over all steps, and but for the last panel over "
        "all norms; of several runs the widest.",
        "n: tokens in a correlation.",
    ]
    if importance is not None:
        sentences.append(
            "Hollow points: the split-half reliability of the importance is below "
            f"{RELIABLE:g}. The title calls a correlation inside its null band undecided, and "
            "gives the one that so many tokens would show beyond it with probability "
            f"{POWER:g}."
        )
    if overlay:
        sentences.append(_differences_note(arms))
    sentences += [otherwise_under_rules(arm, measures) for arm in arms]
    return " ".join(filter(None, sentences))


def _differences_note(arms: Sequence[Arm]) -> str:
    """Return the sentence on the intervals of differences from the first arm."""
    over = {
        OVER_TOKENS if len(arm.runs) == len(arms[0].runs) == 1 else OVER_SEEDS for arm in arms[1:]
    }
    texts = {
        OVER_TOKENS: "of single runs cover a whole curve over resampled tokens, each paired with "
        "itself, and say nothing of other seeds",
        OVER_SEEDS: "of several seeds are t intervals over seeds, step by step",
    }
    return f"Bands of differences {'; those '.join(texts[name] for name in sorted(over))}."
