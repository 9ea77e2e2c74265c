"""Norm surgery: what a model loses when the norms of its embeddings are changed, directions kept.

A norm may correlate with whatever it likes and still do nothing. Surgery asks the causal question:
how much held-out loss the model gains when the norms of its input rows, or of its centred output
rows, are replaced. V tokens of the vocabulary, D hidden size, n tokens that take part.
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
from dynamics.importance.replaced import weight_replaced
from dynamics.models.live_model import LiveModel
from dynamics.scores.norms import embedding_norm, mean_row
from dynamics.statistics.bins import equal_count_bins, tokens_by_bin

DRAWS = 3  # of surgeries that shuffle
BATCH = 16  # rows that are run at once
BINS = 20  # of log frequency, of at least 50 tokens each

Norms = Float[np.ndarray, " n"]
Counts = Integer[np.ndarray, " n"]


def equalized(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Every token gets the mean norm."""
    return np.full_like(norms, norms.mean())


def shuffled(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Norms are permuted over all tokens."""
    return rng.permutation(norms)


def shuffled_within_bins(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Norms are permuted inside bins of frequency: what frequency tells of them stays."""
    changed = norms.copy()
    for tokens in tokens_by_bin(equal_count_bins(counts, BINS)):
        changed[tokens] = rng.permutation(norms[tokens])
    return changed


def fitted(norms: Norms, counts: Counts, rng: np.random.Generator) -> Norms:
    """Every token gets what the least-squares line of log norm on log frequency says.

    Where all tokens are as frequent the line is flat, at the geometric mean.
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
class Operated:
    """An embedding whose norms are operated on.

    Attributes:
        measure: The norm, as `dynamics track` calls it.
        module: What holds the matrix.
        shift: What is subtracted from each row before its norm is taken, and added afterwards.
        norms: Norms of all V rows.
        part: Which rows take part.
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
        """A copy of the matrix in which the rows that take part have other norms.

        A row whose norm stays the same keeps its bits.
        """
        growth = np.zeros(len(self.norms))
        growth[self.part] = norms / self.norms[self.part] - 1
        matrix = self.matrix
        rows = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        factor = torch.from_numpy(growth).to(rows)[:, None]
        return torch.addcmul(rows, rows - self.shift.to(rows), factor).to(matrix.dtype)


def operated(
    model: LiveModel,
    counts: Integer[np.ndarray, " tokens"],
    entries: Bool[np.ndarray, " V"] | None = None,
) -> tuple[Operated, Operated]:
    """Both embeddings of a model: input rows as they are, output rows without their mean.

    Tokens that occur take part; rows that never do (their log frequency is not defined), and rows
    of norm 0 (they have no direction), keep what they have. A tied matrix is both.

    Args:
        model: A causal or masked LM.
        counts: Occurrences of each token; rows without a count never occur.
        entries: Which rows the tokenizer has an entry for, all when None: the mean of the output
            rows is that of these.

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
            f"none of the tokens of {model.name} occurs in the counts, so no norm takes part; "
            "give the counts of its training corpus"
        )
    network = model.network
    read, write = network.get_input_embeddings(), network.get_output_embeddings()
    assert read is not None and write is not None, "what `HeldOut` takes has both"

    def side(measure: str, module: nn.Module, shift: Tensor) -> Operated:
        weight = module.weight
        assert isinstance(weight, Tensor)
        norms = embedding_norm(weight.detach(), shift=shift).double().numpy(force=True)
        return Operated(measure, module, shift, norms, occurs & (norms > 0))

    matrix = write.weight.detach()
    known = None if entries is None else torch.from_numpy(np.asarray(entries)).to(matrix.device)
    return (
        side("input_embedding_norm", read, torch.zeros_like(model.embedding_matrix[0]).double()),
        side("output_embedding_norm_centered", write, mean_row(matrix, known)),
    )


@torch.no_grad()
def surgery_rows(
    model: LiveModel,
    rows: Int[np.ndarray, "R T1"],
    counts: Integer[np.ndarray, " tokens"],
    kinds: Sequence[str],
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
    batch_size: int = BATCH,
    entries: Bool[np.ndarray, " V"] | None = None,
) -> Iterator[dict[str, object]]:
    """Change of the held-out loss under each surgery, rows of the stream compared in pairs.

    Input and output norms are changed apart, in a tied model too. A surgery that shuffles is done
    several times and the changes averaged inside each row. The model is left as it was, bit for
    bit, whatever happens.

    Args:
        model: A causal or masked LM.
        rows: Rows of a token stream that the model was not trained on; see `HeldOut`.
        counts: Occurrences of each token in the training stream.
        kinds: Names in `SURGERIES`.
        rng: Shuffles.
        draws: Of each surgery that shuffles.
        batch_size: Rows that are run at once.
        entries: As in `operated`.

    Yields:
        The held-out loss in nats per target, then its change under each surgery: `measure`,
        `against`, `statistic`, `given`, `value`, `low` and `high` (Student's 95 % interval over
        rows), `n` (rows).

    Raises:
        ConfigError: There is no such surgery, no token occurs, or rows and model do not fit.
        MeasureError: The model gives logits that are not finite.
        MismatchError: The counts are of another vocabulary.
    """
    for kind in kinds:
        if kind not in SURGERIES:
            raise ConfigError(f"there is no surgery {kind!r}; {did_you_mean(kind, SURGERIES)}")
    if draws < 1:
        raise ConfigError(f"{draws} draws shuffle nothing; give 1 or more")
    held_out = HeldOut(model, rows, batch_size)
    sides = operated(model, counts, entries)
    plans = {
        (side, kind): _draws(side, counts, kind, rng, draws) for side in sides for kind in kinds
    }
    losses = np.zeros(len(held_out))
    changes = {plan: np.zeros(len(held_out)) for plan in plans}
    for batch in held_out.batches():
        here, states = batch.rows, batch.states()
        losses[here] = batch.losses(states)
        for (side, kind), wanted in plans.items():
            for norms in wanted:
                with weight_replaced(side.module, side.with_norms(norms)):
                    # The head alone is run again where only output rows have changed.
                    changed = batch.losses(batch.states() if side is sides[0] else states)
                changes[side, kind][here] += (changed - losses[here]) / len(wanted)
    yield interval_row("model", "", "held_out_loss", losses)
    for (side, kind), change in changes.items():
        yield interval_row(side.measure, "held_out_loss", f"surgery_{kind}", change)


def _draws(
    side: Operated,
    counts: Integer[np.ndarray, " tokens"],
    kind: str,
    rng: np.random.Generator,
    draws: int,
) -> list[Norms]:
    """New norms, draw by draw; once where every draw is the same."""
    norms, part = side.norms[side.part], side.part[: len(counts)]
    made = [SURGERIES[kind](norms, counts[part], rng) for _ in range(draws)]
    return made[:1] if all(np.array_equal(each, made[0]) for each in made) else made
