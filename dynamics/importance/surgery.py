"""Norm surgery: change of the held-out loss when norms of embeddings are changed, not directions.

A norm may correlate with other quantities and still have no effect. Surgery is an intervention: it
measures how much held-out loss the model gains when the norms of its input rows, or of its centred
output rows, are replaced. V tokens of the vocabulary, D hidden size, n tokens that take part.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from dynamics.axes import EmbeddingMatrix
from dynamics.errors import ConfigError, MismatchError, did_you_mean
from dynamics.importance.held_out import HeldOut, interval_row
from dynamics.models.live_model import LiveModel
from dynamics.models.patching import weight_replaced
from dynamics.runs.trends import Row
from dynamics.scores.norms import embedding_norm, mean_row
from dynamics.statistics.bins import equal_count_bins, tokens_by_bin

DRAWS = 3  # repetitions of surgeries that shuffle
BATCH = 16  # rows that run at once
BINS = 20  # bins of frequency, of at least 50 tokens each

Norms = Float[np.ndarray, " n"]
Counts = Integer[np.ndarray, " n"]


def equalized(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Give every token the mean norm."""
    return np.full_like(norms, norms.mean())


def shuffled(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Permute the norms over all tokens."""
    return rng.permutation(norms)


def shuffled_within_bins(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Permute the norms inside bins of frequency, so that their relation to frequency stays."""
    changed = norms.copy()
    for tokens in tokens_by_bin(equal_count_bins(counts, BINS)):
        changed[tokens] = rng.permutation(norms[tokens])
    return changed


def fitted(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Give every token its norm on the least-squares line of log norm on log frequency.

    If all tokens are equally frequent, the line is flat at the geometric mean.
    """
    frequency, target = np.log(counts), np.log(norms)
    centered = frequency - frequency.mean()
    spread = centered @ centered
    slope = centered @ target / spread if spread > 0 else 0.0
    return np.exp(target.mean() + slope * centered)


SURGERIES: dict[str, Callable[[Norms, Counts, np.random.Generator], Norms]] = {
    "equalized": equalized,
    "shuffled": shuffled,
    "shuffled_within_bins": shuffled_within_bins,
    "fitted": fitted,
}
"""New norms of the tokens that take part, from their norms, their counts and a generator."""


@dataclass(frozen=True, eq=False)
class OperatedEmbedding:
    """An embedding whose norms are changed by surgery.

    Attributes:
        measure: Name of the norm in `dynamics track`.
        module: Module with the matrix.
        shift: Vector subtracted from each row before its norm is taken, and added afterwards.
        norms: Norms of all V rows.
        part: Mask of the rows that take part.
    """

    measure: str
    module: nn.Module
    shift: Float[Tensor, " D"]
    norms: Float[np.ndarray, " V"]
    part: Bool[np.ndarray, " V"]

    @property
    def matrix(self) -> EmbeddingMatrix:
        """The matrix as it is."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def with_norms(self, norms: Norms) -> EmbeddingMatrix:
        """Return a copy of the matrix in which the rows that take part have other norms.

        A row whose norm stays the same keeps its bits.
        """
        growth = np.zeros(len(self.norms))
        growth[self.part] = norms / self.norms[self.part] - 1
        matrix = self.matrix
        rows = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        factor = torch.from_numpy(growth).to(rows)[:, None]
        # row + (row - shift) (new / old - 1): exactly the row itself where the norm stays.
        return torch.addcmul(rows, rows - self.shift.to(rows), factor).to(matrix.dtype)


def operated_embeddings(
    model: LiveModel,
    counts: Integer[np.ndarray, " tokens"],
    entries: Bool[np.ndarray, " V"] | None = None,
) -> tuple[OperatedEmbedding, OperatedEmbedding]:
    """Return both embeddings of a model: input rows as they are, output rows without their mean.

    Tokens that occur take part; rows of other tokens (their log frequency is not defined), and rows
    of norm 0 (they have no direction), stay as they are. A tied matrix is both.

    Args:
        model: A causal or masked LM.
        counts: Occurrences of each token; rows without a count never occur.
        entries: Mask of the rows in the mean of the output rows: those with an entry in the
            tokenizer; all when None.

    Raises:
        ConfigError: No token occurs.
        MismatchError: There are more counts than rows.
    """
    rows = len(model.embedding_matrix)
    if len(counts) > rows:
        raise MismatchError(
            f"the counts have {len(counts)} tokens and the embedding of {model.name} {rows} rows; "
            "they are of another tokenizer"
        )
    occurs = np.append(np.asarray(counts) > 0, np.zeros(rows - len(counts), dtype=bool))
    if not occurs.any():
        raise ConfigError(
            f"none of the tokens of {model.name} occurs in the counts, so no norm can be changed; "
            "give the counts of its training corpus"
        )
    inputs, outputs = model.network.get_input_embeddings(), model.network.get_output_embeddings()
    assert inputs is not None and outputs is not None, "`HeldOut` refuses models without them"

    def embedding(measure: str, module: nn.Module, shift: Tensor) -> OperatedEmbedding:
        weight = module.weight
        assert isinstance(weight, Tensor)
        norms = embedding_norm(weight.detach(), shift=shift).double().numpy(force=True)
        return OperatedEmbedding(measure, module, shift, norms, occurs & (norms > 0))

    matrix = outputs.weight.detach()
    mask = None if entries is None else torch.from_numpy(np.asarray(entries)).to(matrix.device)
    no_shift = torch.zeros_like(model.embedding_matrix[0]).double()
    return (
        embedding("input_embedding_norm", inputs, no_shift),
        embedding("output_embedding_norm_centered", outputs, mean_row(matrix, mask)),
    )


@torch.no_grad()
def surgery_rows(
    model: LiveModel,
    rows: Int[np.ndarray, "R T1"],
    counts: Integer[np.ndarray, " tokens"],
    kinds: Sequence[str],
    rng: np.random.Generator,
    *,
    batch_size: int = BATCH,
    entries: Bool[np.ndarray, " V"] | None = None,
) -> Iterator[Row]:
    """Change of the held-out loss under each surgery, paired over rows of the stream.

    Input and output norms are changed separately, in a tied model too. A surgery that shuffles is
    repeated `DRAWS` times and the changes averaged inside each row. Afterwards the model is
    restored bit for bit, also after an error.

    Args:
        model: A causal or masked LM.
        rows: Rows of a token stream that the model was not trained on; see `HeldOut`.
        counts: Occurrences of each token in the training stream.
        kinds: Names in `SURGERIES`.
        rng: Generator of the shuffles.
        batch_size: Rows that run at once.
        entries: As in `operated_embeddings`.

    Yields:
        The held-out loss in nats per target, then its change under each surgery, as rows of trends
        without a step: `low` and `high` are Student's 95 % interval over held-out rows, `n` these.

    Raises:
        ConfigError: There is no such surgery, no token occurs, or rows and model do not fit.
        MeasureError: The model gives logits that are not finite.
        MismatchError: The counts are of another vocabulary.
    """
    for kind in kinds:
        if kind not in SURGERIES:
            raise ConfigError(f"there is no surgery {kind!r}; {did_you_mean(kind, SURGERIES)}")
    held_out = HeldOut(model, rows, batch_size)
    embeddings = operated_embeddings(model, counts, entries)
    plans = {
        (embedding, kind): _new_norms(embedding, counts, kind, rng)
        for embedding in embeddings
        for kind in kinds
    }
    losses = np.zeros(len(held_out))
    changes = {plan: np.zeros(len(held_out)) for plan in plans}
    for batch in held_out.batches():
        batch_rows, states = batch.rows, batch.states()
        losses[batch_rows] = batch.losses(states)
        for plan, repetitions in plans.items():
            embedding, is_input = plan[0], plan[0] is embeddings[0]
            for norms in repetitions:
                with weight_replaced(embedding.module, embedding.with_norms(norms)):
                    # Only the head runs again where only output rows have changed.
                    changed = batch.losses(batch.states() if is_input else states)
                changes[plan][batch_rows] += (changed - losses[batch_rows]) / len(repetitions)
    yield interval_row("model", "", "held_out_loss", losses)
    for (embedding, kind), change in changes.items():
        yield interval_row(embedding.measure, "held_out_loss", f"surgery_{kind}", change)


def _new_norms(
    embedding: OperatedEmbedding,
    counts: Integer[np.ndarray, " tokens"],
    kind: str,
    rng: np.random.Generator,
) -> list[Norms]:
    """Return the new norms of each repetition, or of one if all repetitions are the same."""
    norms, part = embedding.norms[embedding.part], embedding.part[: len(counts)]
    repetitions = [SURGERIES[kind](norms, counts[part], rng) for _ in range(DRAWS)]
    is_constant = all(np.array_equal(new_norms, repetitions[0]) for new_norms in repetitions)
    return repetitions[:1] if is_constant else repetitions
