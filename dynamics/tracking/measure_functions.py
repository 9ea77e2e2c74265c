"""Measures per token of an embedding at one checkpoint: a function and a `MEASURES` entry each.

A measure is named ROLE_SUFFIX, such as `output_embedding_norm_centered`. A function returns None
where its measure does not apply. Scalars of the whole matrix are in `matrices`. V tokens, D hidden
size.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dynamics.axes import EmbeddingMatrix, HiddenVector, TokenScores
from dynamics.errors import MeasureError
from dynamics.measure_groups import DEFAULT_GROUPS, MeasureGroup
from dynamics.runs.measures import MEASURES
from dynamics.scores.identical import IdenticalRows, identical_rows
from dynamics.scores.norms import (
    Displacement,
    RowProducts,
    Rows,
    cosine_between,
    displacement,
    mean_row,
    norm_of_difference,
    norms_and_means,
    row_products,
    rows_not_finite,
)
from dynamics.scores.spectrum import first_component, norm_under, second_moment
from dynamics.scores.unused import cosine_distance_without, cosine_distances, unit
from dynamics.tracking.references import StoredRows


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
        groups: Groups of measures to take.
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
    groups: Collection[MeasureGroup] = DEFAULT_GROUPS

    @cached_property
    def identical(self) -> IdenticalRows:
        """Rows that are equal bit by bit; whatever follows from a row alone is equal for them."""
        return identical_rows(self.matrix)

    @cached_property
    def _norms_and_means(self) -> tuple[TokenScores, dict[str, HiddenVector]]:
        """Norms, and those mean rows that are defined, by name."""
        weightings = {"uniform": self.entries}
        if self.counts is not None:
            weightings["unigram"] = self.counts
        if self.unused is not None and self.unused.any():
            weightings["unused"] = self.unused
        weightings = weightings if self.has_all_rows else {}
        norms, means = norms_and_means(self.matrix, list(weightings.values()))
        return self.identical.tie(norms), dict(zip(weightings, means, strict=True))

    @property
    def norms(self) -> TokenScores:
        """Norm of each row as it is stored."""
        return self._norms_and_means[0]

    @property
    def means(self) -> dict[str, HiddenVector]:
        """Mean rows: `uniform` over entries, `unigram` weighted by counts, `unused`.

        The last two are left out where they are not defined or not known, all for some rows only.
        """
        return self._norms_and_means[1]

    @cached_property
    def vectors(self) -> dict[str, HiddenVector]:
        """Vectors that measures need the product of each row with, in float64."""
        vectors = {"ones": torch.ones_like(self.matrix[0], dtype=torch.float64), **self.means}
        if "unused" in self.means:
            vectors["unused_unit"] = unit(self.means["unused"])
            vectors["unused_unit_centered"] = unit(self.means["unused"] - self.means["uniform"])
        if self.gain is not None and "uniform" in self.means:
            vectors["gain"] = self.gain.double()
            vectors["mean_under_gain"] = self.means["uniform"] * self.gain.double().square()
        return vectors

    @cached_property
    def _row_products(self) -> RowProducts:
        weights = None if self.gain is None else self.gain.double().square()
        found = row_products(self.matrix, torch.stack(list(self.vectors.values())), weights)
        for scores in (found.norms, found.products, found.squares):
            if scores is not None:
                self.identical.tie(scores)
        return found

    @property
    def norms64(self) -> Float[Tensor, " V"]:
        """Norm of each row, in float64."""
        return self._row_products.norms

    @property
    def squares_under_gain(self) -> Float[Tensor, " V"] | None:
        """Squared norm of each row times the gain, in float64; None without a gain."""
        return self._row_products.squares

    def product(self, name: str) -> Float[Tensor, " V"]:
        """Product of each row with one of `vectors`."""
        return self._row_products.products[:, list(self.vectors).index(name)]

    def distance_to_mean(self, name: str) -> Float[Tensor, " V"]:
        """L2 distance of each row to one of `means`, in float64."""
        mean = self.means[name]
        # |x - m|^2 = |x|^2 + |m|^2 - 2 x.m
        squares = self.norms64.square() + mean @ mean
        return norm_of_difference(self.matrix, squares, 2 * self.product(name), shift=mean)

    @cached_property
    def centered_norms(self) -> Float[Tensor, " V"]:
        """Norm of each row without the mean row of all entries, in float64."""
        return self.distance_to_mean("uniform")

    @cached_property
    def change_from_first(self) -> Displacement:
        """Change since the first checkpoint; `shifted` without the mean change of all entries."""
        first, mean_change = self.first, None
        if self.has_all_rows:
            kept = isinstance(first, StoredRows)
            mean = first.mean(self.entries) if kept else mean_row(first, self.entries)
            mean_change = self.means["uniform"] - mean.to(self.matrix.device)
        return displacement(self.matrix, first, mean_change, self.norms)


def norm(view: View) -> TokenScores:
    """Norm of the row as it is stored."""
    return view.norms


def norm_centered(view: View) -> TokenScores:
    """Norm after subtracting the mean row, with equal weight for every entry."""
    return view.centered_norms


def norm_centered_frequency(view: View) -> TokenScores | None:
    """Norm after subtracting the mean row, with tokens weighted by their counts."""
    return view.distance_to_mean("unigram") if "unigram" in view.means else None


def norm_folded(view: View) -> TokenScores | None:
    """Norm with the final norm's gain applied, and for a LayerNorm without the feature mean.

    The uniform mean row is subtracted first, as for `norm_centered`: the gain does not make it
    identifiable.
    """
    if view.gain is None or view.squares_under_gain is None:
        return None
    mean, gain = view.means["uniform"], view.gain.double()
    # |(x - m) g|^2 = |x g|^2 + |m g|^2 - 2 x.(m g^2), and the squared feature mean D times
    squares = view.squares_under_gain + (mean * gain) @ (mean * gain)
    subtracted = 2 * view.product("mean_under_gain")
    if center_features := view.final_norm == "layer":
        subtracted = subtracted + (view.product("gain") - mean @ gain).square() / len(gain)
    return norm_of_difference(
        view.matrix,
        squares,
        subtracted,
        shift=mean,
        gain=view.gain,
        center_features=center_features,
    )


def norm_features_centered(view: View) -> TokenScores | None:
    """Norm without the row's mean over features, which LayerNorm ignores."""
    if view.final_norm != "layer":
        return None
    subtracted = view.product("ones").square() / view.matrix.shape[1]
    return norm_of_difference(view.matrix, view.norms64.square(), subtracted, center_features=True)


def distance_from_first(view: View) -> TokenScores:
    """L2 distance to the row at the first checkpoint of the run."""
    return view.change_from_first.distances


def distance_from_first_centered(view: View) -> TokenScores:
    """L2 distance to the row at the first checkpoint without the mean difference of all entries."""
    return view.change_from_first.shifted


def cosine_to_first(view: View) -> TokenScores:
    """Cosine between the row and itself at the first checkpoint of the run."""
    return view.change_from_first.cosines


def unused_distance(view: View) -> TokenScores | None:
    """L2 distance to the mean of the rows that are never used."""
    return view.distance_to_mean("unused") if "unused" in view.means else None


def unused_cosine_distance(view: View) -> TokenScores | None:
    """Cosine distance to the mean of the rows that are never used."""
    if "unused" not in view.means:
        return None
    return cosine_distances(view.product("unused_unit"), view.norms64)


def unused_cosine_distance_without_first(view: View) -> TokenScores | None:
    """Cosine distance to the mean never-used row without the rows' first principal component."""
    if "unused" not in view.means:
        return None
    moment = second_moment(view.matrix, shift=view.means["uniform"], weights=view.entries)
    distances = cosine_distance_without(view.matrix, view.means["unused"], first_component(moment))
    return view.identical.tie(distances)


def unused_cosine_distance_centered(view: View) -> TokenScores | None:
    """Cosine distance to the mean never-used row after subtracting the mean row."""
    if "unused" not in view.means:
        return None
    direction, mean = view.vectors["unused_unit_centered"], view.means["uniform"]
    products = view.product("unused_unit_centered") - mean @ direction
    return cosine_distances(products, view.centered_norms)


def cosine_to_input(view: View) -> TokenScores | None:
    """Cosine between the output and the input row of a token, in models that are not tied."""
    if view.input_embedding is None or view.tied:
        return None
    return cosine_between(view.matrix, view.input_embedding, view.norms64)


def input_norm_whitened(view: View) -> TokenScores | None:
    """Norm of the input row, whitened by the output rows (Oyama et al. 2023, eq. 12-14).

    Both embeddings are centred by their unigram means; see `norm_under`.
    """
    if view.input_embedding is None or view.counts is None:
        return None
    moment = second_moment(view.matrix, shift=view.means["unigram"], weights=view.counts)
    shift = mean_row(view.input_embedding, view.counts).to(view.matrix.device)
    # Oyama et al. 2023, eq. 12-14
    norms = norm_under(view.input_embedding, moment, shift=shift)
    return identical_rows(view.input_embedding).tie(norms)


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
    "norm_whitened": input_norm_whitened,
}
"""The function of each record in `dynamics.runs.measures`, by suffix."""

WHITENED = "input_embedding_norm_whitened"
"""Full name of the norm of input rows that is measured with the output embedding."""


def measure(role: str, view: View, *, step: int) -> dict[str, TokenScores]:
    """Take every measure that applies to one embedding, and return them by full name.

    Args:
        role: Role of the embedding.
        view: The embedding.
        step: Its step, for messages.

    Returns:
        Measures in the processor's memory, in float32, or float64 for a float64 matrix.

    Raises:
        MeasureError: A row holds NaN or infinity (the message names tokens and step), or finite
            values are so large that their squares overflow.
    """
    _check_finite(role, view, step)
    measures: dict[str, TokenScores] = {}
    for suffix, function in FUNCTIONS.items():
        record = MEASURES[suffix]
        name = WHITENED if suffix == "norm_whitened" else f"{role}_{suffix}"
        if record.group not in view.groups or (record.needs_all_rows and not view.has_all_rows):
            continue
        if (scores := function(view)) is not None:
            measures[name] = scores.to("cpu", view.norms.dtype)
    return measures


def _check_finite(role: str, view: View, step: int) -> None:
    """Refuse rows whose norms, or whose squared norms together, are not finite numbers.

    Raises:
        MeasureError: There are such rows.
    """
    norms, name = view.norms, f"the {role.replace('_', ' ')} at step {step}"
    dtype = str(norms.dtype).removeprefix("torch.")
    if not norms.square().sum().isfinite() and view.matrix.isfinite().all():
        largest = view.matrix.abs().max().item()
        raise MeasureError(
            f"{name} holds values up to {largest:.3g}, and sums of their squares overflow {dtype}; "
            "leave that step out with --steps, or repair the checkpoint"
        )
    if bad_ids := (~norms.isfinite()).nonzero().flatten().tolist():
        cause = "hold NaN or infinity"
        if not rows_not_finite(view.matrix[bad_ids]):
            cause = f"have a norm beyond {dtype}"
        raise MeasureError(
            f"{name} has rows that {cause}: {len(bad_ids)} of {len(norms)} (token ids "
            f"{', '.join(map(str, bad_ids[:5]))}{', ...' if len(bad_ids) > 5 else ''})"
        )
