"""Norm surgery: change of the held-out loss when norms of embeddings are changed, not directions.

A norm may correlate with other quantities and still have no effect. Surgery is an intervention: it
measures how much held-out loss the model gains when the norms of its input rows, or of its centred
output rows, are replaced. V tokens of the vocabulary, D hidden size, n tokens that take part.
"""

from collections.abc import Iterator, Sequence
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
from dynamics.runs.surgeries import DRAWS, SURGERIES, TOP_BIN_SHARE, Surgery, top_bin
from dynamics.runs.trends import Row, trend_row
from dynamics.scores.norms import embedding_norm, mean_row

BATCH = 16  # rows that run at once


@dataclass(frozen=True, eq=False)
class OperatedEmbedding:
    """An embedding whose norms are changed by surgery.

    Attributes:
        measure: Name of the norm in `dynamics track`.
        module: Module with the matrix.
        shift: Vector subtracted from each row before its norm is taken, and added afterwards.
        norms: Norms of all V rows.
        counts: Occurrences of each row's token.
    """

    measure: str
    module: nn.Module
    shift: Float[Tensor, " D"]
    norms: Float[np.ndarray, " V"]
    counts: Integer[np.ndarray, " V"]

    @property
    def matrix(self) -> EmbeddingMatrix:
        """The matrix as it is."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def part(self, surgery: Surgery) -> Bool[np.ndarray, " V"]:
        """Return the mask of the rows that take part; a row of norm 0 has no direction to keep."""
        return (self.norms > 0) & (surgery.every_row | (self.counts > 0))

    def new_norms(
        self, surgery: Surgery, rng: np.random.Generator
    ) -> list[Float[np.ndarray, " V"]]:
        """Return the norms of all rows after each repetition of a surgery."""
        part, repetitions = self.part(surgery), []
        for _ in range(DRAWS if surgery.is_random else 1):
            norms = self.norms.copy()
            norms[part] = surgery.new_norms(self.norms[part], self.counts[part], rng)
            repetitions.append(norms)
        return repetitions

    def with_norms(self, norms: Float[np.ndarray, " V"]) -> EmbeddingMatrix:
        """Return a copy of the matrix in which the rows have other norms.

        A row whose norm stays the same keeps its bits.
        """
        # A row of norm 0 stays what it is.
        growth = np.divide(norms, self.norms, out=np.ones_like(norms), where=self.norms > 0) - 1
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

    Surgeries change the rows of tokens that occur, and the scaling control changes every row; rows
    of norm 0, which have no direction, stay as they are. A tied matrix is both.

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
    row_counts = np.pad(np.asarray(counts), (0, rows - len(counts)))
    if not row_counts.any():
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
        return OperatedEmbedding(measure, module, shift, norms, row_counts)

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

    Input and output norms are changed separately, in a tied model too. A surgery that draws at
    random is repeated `DRAWS` times and the changes averaged inside each row. Afterwards the model
    is restored bit for bit, also after an error.

    Args:
        model: A causal or masked LM.
        rows: Rows of a token stream that the model was not trained on; see `HeldOut`.
        counts: Occurrences of each token in the training stream.
        kinds: Names in `SURGERIES`.
        rng: Generator of the shuffles.
        batch_size: Rows that run at once.
        entries: As in `operated_embeddings`.

    Yields:
        Rows of trends without a step: the share of all occurrences that the top bin of frequency
        holds (`n` its tokens); the held-out loss in nats per target, and its change under each
        surgery, whose `low` and `high` are Student's 95 % interval over held-out rows, `n` these.

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
        (embedding, kind): embedding.new_norms(SURGERIES[kind], rng)
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
    yield _top_bin_row(np.asarray(counts))
    yield interval_row("model", "", "held_out_loss", losses)
    for (embedding, kind), change in changes.items():
        yield interval_row(embedding.measure, "held_out_loss", f"surgery_{kind}", change)


def _top_bin_row(counts: Integer[np.ndarray, " tokens"]) -> Row:
    """Return the row of trends of the share of occurrences that the top bin of frequency holds."""
    occurring = counts[counts > 0]
    top_counts = occurring[top_bin(occurring)]
    share = float(top_counts.sum() / occurring.sum())
    return trend_row(share, len(top_counts), measure="log_frequency", statistic=TOP_BIN_SHARE)
