"""The forward passes that importances share, each run when it is first needed.

In a causal LM the prediction of the token after the probed one is measured. A masked LM predicts
masked tokens only: there the token after the probed one is masked in all passes, with the probed
token as it is and changed, and its prediction measured. Contexts are rows of the token stream,
without special tokens around them.

N contexts of L ids, P pairs of a context and a position, V rows of an embedding, E their size,
D hidden size.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.from_ids import batch_of_ids
from dynamics.attribution.methods import METHODS
from dynamics.attribution.settings import AttributionSettings
from dynamics.errors import CheckpointError
from dynamics.models.live_model import Batch, LiveModel
from dynamics.models.output import nearly_equal
from dynamics.scores.divergence import kl_divergence
from dynamics.scores.logits import CHUNK
from dynamics.scores.norms import embedding_norm, mean_row

Rows = Float[Tensor, "N L E"]
Hidden = Float[Tensor, "N L D"]
Pairs = tuple[Int[Tensor, " P"], Int[Tensor, " P"]]


class InputRows:
    """The rows of a model's input embedding, as its embedding module looks them up, and changed.

    Args:
        model: The model.
        entries: Mask of the rows in the mean row and the mean norm, without padding rows; all when
            None.
    """

    def __init__(self, model: LiveModel, entries: Bool[np.ndarray, " V"] | None = None) -> None:
        self._stack = model.stack()
        weight = model.embedding_matrix
        mask = None if entries is None else torch.from_numpy(entries).to(weight.device)
        token_rows = weight if mask is None else weight[mask]
        self.mean: Float[Tensor, " E"] = self._stack.as_looked_up(mean_row(token_rows))
        norms = embedding_norm(weight)
        self._factor = (embedding_norm(token_rows).mean() / norms).masked_fill(norms == 0, 1)

    def look_up(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... E"]:
        """Look up the unchanged rows."""
        return self._stack.look_up(ids)

    def equalized(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... E"]:
        """Look up the rows rescaled to the mean norm, with their direction; zero rows stay zero."""
        rows = self._stack.look_up(ids)
        return rows * self._factor[ids, None].to(rows)


@dataclass(frozen=True, eq=False)
class Passes:
    """The passes over some contexts.

    Attributes:
        model: A causal or a masked LM.
        rows: Its input rows.
        ids: Token ids of each context.
        positions: Position of the probed token in its context.
        replacements: Token whose row replaces that of the probed token in `exchanged`.
        counts: Occurrences of each token in the training corpus, for attribution by frequency.
    """

    model: LiveModel
    rows: InputRows
    ids: Int[Tensor, "N L"]
    positions: Int[Tensor, " N"]
    replacements: Int[Tensor, " N"]
    counts: np.ndarray | None = None
    _attributed: dict[str, Scores] = field(default_factory=dict)

    @property
    def masks(self) -> bool:
        """Return whether the model predicts masked tokens."""
        return self.model.task == "masked"

    @cached_property
    def context_index(self) -> Int[Tensor, " N"]:
        """Index of each context."""
        return torch.arange(len(self.ids), device=self.ids.device)

    @property
    def next(self) -> Pairs:
        """Contexts and positions at which the token after the probed one is predicted."""
        return self.context_index, self.positions + self.masks

    @cached_property
    def later(self) -> Pairs:
        """Contexts and positions at which a causal LM predicts all tokens after the probed one."""
        positions = torch.arange(self.ids.shape[1] - 1, device=self.ids.device)
        contexts, later_positions = (positions >= self.positions[:, None]).nonzero().T
        return contexts, later_positions

    @cached_property
    def input_ids(self) -> Int[Tensor, "N L"]:
        """The ids that the model reads; in a masked LM the token to predict is masked."""
        return self._mask(self.positions + 1) if self.masks else self.ids

    @cached_property
    def clean(self) -> Hidden:
        """Final states of the unchanged contexts."""
        return self._run(self.input_ids, self.rows.look_up(self.input_ids))

    @cached_property
    def occluded(self) -> Hidden:
        """Final states with the mean row in place of the probed token's."""
        rows = self.rows.look_up(self.input_ids).clone()
        rows[self.context_index, self.positions] = self.rows.mean.to(rows)
        return self._run(self.input_ids, rows)

    @cached_property
    def equalized(self) -> Hidden:
        """Final states where all input rows are rescaled to the mean norm; zero rows stay zero."""
        return self._run(self.input_ids, self.rows.equalized(self.input_ids))

    @cached_property
    def exchanged(self) -> Hidden:
        """Final states as in `equalized`, with another token's row in place of the probed one's."""
        rows = self.rows.equalized(self.input_ids).clone()
        rows[self.context_index, self.positions] = self.rows.equalized(self.replacements)
        return self._run(self.input_ids, rows)

    @cached_property
    def self_masked(self) -> Hidden:
        """Final states of a masked LM where the probed token itself is masked."""
        ids = self._mask(self.positions)
        return self._run(ids, self.rows.look_up(ids))

    def attributed(self, method: str) -> Scores:
        """Score every position for the model's own prediction at the end of the context."""
        if method not in self._attributed:
            with torch.enable_grad():
                self._attributed[method] = METHODS[method].function(self._batch)
        return self._attributed[method]

    def divergence(self, clean: Hidden, changed: Hidden, pairs: Pairs) -> Float[Tensor, " P"]:
        """KL(clean prediction || changed prediction) in nats, at pairs of context and position."""
        parts = (
            kl_divergence(self.model.head(clean[index]), self.model.head(changed[index]))
            for index in zip(*(indices.split(CHUNK) for indices in pairs), strict=True)
        )
        return torch.cat(list(parts))

    def surprisal(
        self, states: Hidden, pairs: Pairs, targets: Int[Tensor, " P"]
    ) -> Float[Tensor, " P"]:
        """-log probability in nats of a target at each pair of context and position."""
        parts = []
        chunks = zip(*(tensor.split(CHUNK) for tensor in (*pairs, targets)), strict=True)
        for contexts, positions, chunk_targets in chunks:
            logits = self.model.head(states[contexts, positions]).float()
            parts.append(torch.nn.functional.cross_entropy(logits, chunk_targets, reduction="none"))
        return torch.cat(parts)

    @cached_property
    def _batch(self) -> AttributionBatch:
        """The contexts as a batch; each target is the model's own prediction at the end."""
        return batch_of_ids(self.model, self.ids, AttributionSettings(counts=self.counts))

    def _mask(self, positions: Int[Tensor, " N"]) -> Int[Tensor, "N L"]:
        """Ids with one position of each context masked."""
        ids, mask = self.ids.clone(), self.model.tokenizer.mask_token_id
        assert isinstance(mask, int)
        ids[self.context_index, positions] = mask
        return ids

    def _run(self, ids: Int[Tensor, "N L"], rows: Rows) -> Hidden:
        """Final states for these input rows; the head is checked against the logits."""
        segments = torch.zeros_like(ids) if self.model.has_segments else None
        reading = self.model.read(Batch(ids, torch.ones_like(ids), segments), rows=rows)
        states, columns = reading.read.final, reading.columns
        assert reading.logits is not None
        logits = reading.logits[:, -1]
        head_logits = self.model.head(states[:, -1], columns)
        if logits.isfinite().all() and not nearly_equal(head_logits, logits):
            raise CheckpointError(
                f"{self.model.name}: its head, applied to one representation, does not give the "
                "network's own logits in these contexts, so importances cannot be read through it"
            )
        return states
