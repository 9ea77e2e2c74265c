"""Measures per token of an embedding at one checkpoint: a function and a `MEASURES` entry each.

A measure is named ROLE_SUFFIX, such as `output_embedding_norm_centered`. A function returns None
where its measure does not apply. Scalars of the whole matrix are in `matrices`. V tokens, D hidden
size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Integer
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.errors import MeasureError
from dynamics.runs.measures import MEASURES
from dynamics.scores.norms import (
    Rows,
    cosine_between,
    displacement,
    embedding_norm,
    mean_row,
    rows_not_finite,
)
from dynamics.scores.spectrum import first_component, norm_under, second_moment
from dynamics.scores.unused import cosine_distance_to, distance_to


@dataclass(frozen=True)
class View:
    """One embedding at one checkpoint, with the inputs of its measures.

    Attributes:
        matrix: The embedding.
        first: The same embedding at the first checkpoint of the run, which may be on disk.
        counts: Occurrences of each token in the training stream, or None.
        entries: Mask of the rows that the tokenizer has an entry for, twins included as they are
            trained alike; None where not known. The other rows pad the matrix, and do not enter
            the mean row.
        final_norm: `layer`, `rms`, or None where the model has no final norm or it is not known.
        gain: Weight of the final norm, for an output embedding that follows it, or None.
        has_all_rows: Whether `matrix` has all rows of the embedding, so that their mean is known.
        input_embedding: For an output embedding, the input embedding of the same checkpoint, which
            may be on disk; None where there is none of the same shape.
        tied: Whether the two are one matrix.
        unused: Mask of the rows that no token of the stream uses; None where not known.
        slow: Whether to take the slow measures too.
    """

    matrix: EmbeddingMatrix
    first: EmbeddingMatrix | Rows
    counts: Integer[Tensor, " V"] | None
    entries: Bool[Tensor, " V"] | None
    final_norm: str | None
    gain: HiddenVector | None
    has_all_rows: bool = True
    input_embedding: EmbeddingMatrix | Rows | None = None
    tied: bool = False
    unused: Bool[Tensor, " V"] | None = None
    slow: bool = False

    @cached_property
    def uniform_mean(self) -> HiddenVector:
        """Mean row, with equal weight for every entry."""
        return mean_row(self.matrix, self.entries)

    @cached_property
    def change_from_first(self) -> tuple[TokenScores, TokenScores]:
        """Distance and cosine to the first checkpoint."""
        return displacement(self.matrix, self.first)

    @cached_property
    def unused_mean(self) -> HiddenVector | None:
        """Mean of the rows that are never used; None where there are none or it is not known."""
        if self.unused is None or not self.unused.any():
            return None
        return mean_row(self.matrix, self.unused)


def norm(view: View) -> TokenScores:
    """Norm of the row as it is stored."""
    return embedding_norm(view.matrix)


def norm_centered(view: View) -> TokenScores:
    """Norm after subtracting the mean row, with equal weight for every entry."""
    return embedding_norm(view.matrix, shift=view.uniform_mean)


def norm_centered_frequency(view: View) -> TokenScores | None:
    """Norm after subtracting the mean row, with tokens weighted by their counts."""
    if view.counts is None:
        return None
    return embedding_norm(view.matrix, shift=mean_row(view.matrix, view.counts))


def norm_folded(view: View) -> TokenScores | None:
    """Norm with the final norm's gain applied, and for a LayerNorm without the feature mean.

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
    """Norm without the row's mean over features, which LayerNorm ignores."""
    if view.final_norm != "layer":
        return None
    return embedding_norm(view.matrix, center_features=True)


def distance_from_first(view: View) -> TokenScores:
    """L2 distance to the row at the first checkpoint of the run."""
    return view.change_from_first[0]


def distance_from_first_centered(view: View) -> TokenScores | None:
    """L2 distance to the row at the first checkpoint without the mean difference of all entries."""
    if not view.has_all_rows:
        return None
    mean_change = view.uniform_mean - mean_row(view.first, view.entries)
    return displacement(view.matrix, view.first, mean_change)[0]


def cosine_to_first(view: View) -> TokenScores:
    """Cosine between the row and itself at the first checkpoint of the run."""
    return view.change_from_first[1]


def unused_distance(view: View) -> TokenScores | None:
    """L2 distance to the mean of the rows that are never used."""
    return None if view.unused_mean is None else distance_to(view.matrix, view.unused_mean)


def unused_cosine_distance(view: View) -> TokenScores | None:
    """Cosine distance to the mean of the rows that are never used."""
    return None if view.unused_mean is None else cosine_distance_to(view.matrix, view.unused_mean)


def unused_cosine_distance_without_first(view: View) -> TokenScores | None:
    """Cosine distance to the mean never-used row without the rows' first principal component."""
    if view.unused_mean is None or not view.slow:
        return None
    moment = second_moment(view.matrix, shift=view.uniform_mean, weights=view.entries)
    return cosine_distance_to(view.matrix, view.unused_mean, without=first_component(moment))


def unused_cosine_distance_centered(view: View) -> TokenScores | None:
    """Cosine distance to the mean never-used row after subtracting the mean row."""
    if view.unused_mean is None:
        return None
    return cosine_distance_to(view.matrix, view.unused_mean, shift=view.uniform_mean)


def cosine_to_input(view: View) -> TokenScores | None:
    """Cosine between the output and the input row of a token, in models that are not tied."""
    if view.input_embedding is None or view.tied:
        return None
    return cosine_between(view.matrix, view.input_embedding)


def input_norm_whitened(view: View) -> TokenScores | None:
    """Norm of the input row, whitened by the output rows (Oyama et al. 2023, eq. 12-14).

    Both embeddings are centred by their unigram means; see `norm_under`.
    """
    if view.input_embedding is None or view.counts is None or not view.slow:
        return None
    moment = second_moment(
        view.matrix, shift=mean_row(view.matrix, view.counts), weights=view.counts
    )
    # Oyama et al. 2023, eq. 12-14
    return norm_under(
        view.input_embedding, moment, shift=mean_row(view.input_embedding, view.counts)
    )


FUNCTIONS: dict[str, Callable[[View], TokenScores | None]] = {
    "norm": norm,
    "norm_centered": norm_centered,
    "norm_centered_frequency": norm_centered_frequency,
    "norm_folded": norm_folded,
    "norm_features_centered": norm_features_centered,
    "distance_from_first": distance_from_first,
    "distance_from_first_centered": distance_from_first_centered,
    "cosine_to_first": cosine_to_first,
    "unused_distance": unused_distance,
    "unused_cosine_distance": unused_cosine_distance,
    "unused_cosine_distance_without_first": unused_cosine_distance_without_first,
    "unused_cosine_distance_centered": unused_cosine_distance_centered,
    "cosine_to_input": cosine_to_input,
}

"""The function of each record in `dynamics.runs.measures`, by suffix."""

WHITENED = "input_embedding_norm_whitened"
"""Measured when the output embedding is at hand, hence by full name and not among `FUNCTIONS`."""


def measure(role: str, view: View, *, step: int) -> dict[str, TokenScores]:
    """Take every measure that applies to one embedding, and return them by full name.

    Raises:
        MeasureError: A row holds NaN or infinity (the message names tokens and step), or finite
            values are so large that their squares overflow.
    """
    norms = norm(view)
    if not norms.square().sum().isfinite() and view.matrix.isfinite().all():
        largest, dtype = view.matrix.abs().max().item(), str(norms.dtype).removeprefix("torch.")
        raise MeasureError(
            f"the {role.replace('_', ' ')} at step {step} holds values up to {largest:.3g}, and "
            f"sums of their squares overflow {dtype}; leave that step out with --steps, or repair "
            "the checkpoint"
        )
    if bad_ids := (~norms.isfinite()).nonzero().flatten().tolist():
        cause = "hold NaN or infinity"
        if not rows_not_finite(view.matrix[bad_ids]):
            cause = f"have a norm beyond {norms.dtype}".replace("torch.", "")
        raise MeasureError(
            f"the {role.replace('_', ' ')} at step {step} has rows that {cause}: {len(bad_ids)} of "
            f"{len(norms)} (token ids {', '.join(map(str, bad_ids[:5]))}"
            f"{', ...' if len(bad_ids) > 5 else ''})"
        )
    results = {"norm": norms} | {
        suffix: scores
        for suffix, function in FUNCTIONS.items()
        if suffix != "norm"
        and (view.has_all_rows or not MEASURES[suffix].needs_all_rows)
        and (scores := function(view)) is not None
    }
    measures = {f"{role}_{suffix}": scores for suffix, scores in results.items()}
    if view.has_all_rows and (whitened := input_norm_whitened(view)) is not None:
        measures[WHITENED] = whitened
    return measures
