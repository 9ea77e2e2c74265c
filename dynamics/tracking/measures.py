"""What is measured of an embedding at one checkpoint: a function and an entry for each.

A measure is named ROLE_SUFFIX, `output_embedding_norm_centered` for one. A function returns None
where its measure does not apply. V tokens, D hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.checkpoints.architectures import Role
from dynamics.errors import MeasureError
from dynamics.scores.norms import Rows, displacement, embedding_norm, mean_row

ROLES: tuple[Role, ...] = ("input_embedding", "output_embedding")


@dataclass(frozen=True)
class View:
    """One embedding at one checkpoint, and what its measures need beside it.

    Attributes:
        matrix: The embedding.
        first: The same embedding at the first checkpoint of the run, which may be on disk.
        counts: Occurrences of each token in the training stream, or None.
        entries: Which rows the tokenizer has an entry for, twins among them as they are trained
            alike; None where that is not known. The others pad the matrix; they have no part in
            the mean row.
        final_norm: `layer`, `rms`, or None where the model has no final norm.
        gain: Weight of the final norm, for an output embedding that follows it, or None.
        whole: Whether `matrix` has all rows of the embedding, so that their mean is known.
    """

    matrix: EmbeddingMatrix
    first: EmbeddingMatrix | Rows
    counts: Tensor | None
    entries: Tensor | None
    final_norm: str | None
    gain: HiddenVector | None
    whole: bool = True

    @cached_property
    def uniform_mean(self) -> HiddenVector:
        """Mean row, every entry weighing alike."""
        return mean_row(self.matrix, self.entries)

    @cached_property
    def moved(self) -> tuple[TokenScores, TokenScores]:
        """Distance and cosine to the first checkpoint."""
        return displacement(self.matrix, self.first)


def norm(view: View) -> TokenScores:
    """Norm of the row as it is stored."""
    return embedding_norm(view.matrix)


def norm_centered(view: View) -> TokenScores:
    """Norm after the mean row is subtracted, every entry weighing alike."""
    return embedding_norm(view.matrix, shift=view.uniform_mean)


def norm_centered_frequency(view: View) -> TokenScores | None:
    """Norm after the mean row is subtracted, tokens weighing as often as they occur."""
    if view.counts is None:
        return None
    return embedding_norm(view.matrix, shift=mean_row(view.matrix, view.counts))


def norm_folded(view: View) -> TokenScores | None:
    """Norm with the final norm's gain in it, and without the feature mean that LayerNorm frees.

    The uniform mean row is subtracted first, as for `norm_centered`: the gain does not make it
    identifiable.
    """
    if view.gain is None:
        return None
    return embedding_norm(
        view.matrix,
        shift=view.uniform_mean,
        gain=view.gain,
        center_features=view.final_norm == "layer",
    )


def norm_features_centered(view: View) -> TokenScores | None:
    """Norm without the row's mean over features, which is free where LayerNorm reads the row."""
    if view.final_norm != "layer":
        return None
    return embedding_norm(view.matrix, center_features=True)


def distance_from_first(view: View) -> TokenScores:
    """L2 distance to the row at the first checkpoint of the run."""
    return view.moved[0]


def cosine_to_first(view: View) -> TokenScores:
    """Cosine between the row and itself at the first checkpoint of the run."""
    return view.moved[1]


MEASURES: dict[str, Callable[[View], TokenScores | None]] = {
    "norm": norm,
    "norm_centered": norm_centered,
    "norm_centered_frequency": norm_centered_frequency,
    "norm_folded": norm_folded,
    "norm_features_centered": norm_features_centered,
    "distance_from_first": distance_from_first,
    "cosine_to_first": cosine_to_first,
}

NEED_ALL_ROWS = ("norm_centered", "norm_centered_frequency", "norm_folded")
"""Measures that subtract a mean row: there are none of a part of an embedding."""


def measure(role: str, view: View, *, step: int) -> dict[str, TokenScores]:
    """Every measure that applies to one embedding, by full name.

    Raises:
        MeasureError: A row holds NaN or infinity; the message names the tokens and the step.
    """
    norms = norm(view)
    if broken := (~norms.isfinite()).nonzero().flatten().tolist():
        shown = ", ".join(str(token_id) for token_id in broken[:5])
        raise MeasureError(
            f"the {role.replace('_', ' ')} at step {step} has {len(broken)} rows that are not "
            f"finite (token ids {shown}{', ...' if len(broken) > 5 else ''}); leave that step out "
            "with --steps, or repair the checkpoint"
        )
    results = {"norm": norms} | {
        suffix: scores
        for suffix, function in MEASURES.items()
        if suffix != "norm"
        and (view.whole or suffix not in NEED_ALL_ROWS)
        and (scores := function(view)) is not None
    }
    return {f"{role}_{suffix}": scores for suffix, scores in results.items()}
