"""The forward passes that importances share, each made when it is first needed.

A causal LM is looked at where it predicts the token after the probed one. A masked LM predicts only
what is masked: it is looked at at the next position, which is masked for it in every pass, before
and after the probed token is changed. Contexts are fed as the token stream has them, without
special tokens around them.

N contexts of L ids, P pairs of a context and a position, V rows of an embedding, E their size,
D hidden size.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dynamics.attribution.from_ids import question_of_ids
from dynamics.attribution.methods import METHODS
from dynamics.attribution.question import Question, Scores, Settings
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
        entries: Which rows mean row and mean norm are of, those that do not pad; all when None.
    """

    def __init__(self, model: LiveModel, entries: Bool[np.ndarray, " V"] | None = None) -> None:
        self._stack = model.stack()
        weight = model.embedding_matrix
        known = weight if entries is None else weight[torch.from_numpy(entries).to(weight.device)]
        self.mean: Float[Tensor, " E"] = self._stack.as_looked_up(mean_row(known))
        norms = embedding_norm(weight)
        self._factor = (embedding_norm(known).mean() / norms).masked_fill(norms == 0, 1)

    def look_up(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... E"]:
        """The rows as they are."""
        return self._stack.look_up(ids)

    def equalized(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... E"]:
        """The rows rescaled to the mean norm, directions kept; a row that is zero stays zero."""
        rows = self._stack.look_up(ids)
        return rows * self._factor[ids, None].to(rows)


@dataclass(frozen=True, eq=False)
class Passes:
    """The passes over some contexts.

    Attributes:
        model: A causal or a masked LM.
        rows: Its input rows.
        ids: Token ids of each context.
        positions: Where in its context the probed token stands.
        replacements: Token whose row takes its place where another one is wanted.
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
        """Whether the model predicts masked tokens."""
        return self.model.task == "masked"

    @cached_property
    def each(self) -> Int[Tensor, " N"]:
        """Index of each context."""
        return torch.arange(len(self.ids), device=self.ids.device)

    @property
    def next(self) -> Pairs:
        """Where the token after the probed one is predicted."""
        return self.each, self.positions + self.masks

    @cached_property
    def later(self) -> Pairs:
        """Where each token of the context after the probed one is predicted, in a causal LM."""
        places = torch.arange(self.ids.shape[1] - 1, device=self.ids.device)
        contexts, positions = (places >= self.positions[:, None]).nonzero().T
        return contexts, positions

    @cached_property
    def shown(self) -> Int[Tensor, "N L"]:
        """The ids that the model gets: with the token to predict masked in a masked LM."""
        return self._masked(self.positions + 1) if self.masks else self.ids

    @cached_property
    def clean(self) -> Hidden:
        """What the head gets, the context as it is."""
        return self._run(self.shown, self.rows.look_up(self.shown))

    @cached_property
    def occluded(self) -> Hidden:
        """The same with the mean row in place of the probed token's."""
        rows = self.rows.look_up(self.shown).clone()
        rows[self.each, self.positions] = self.rows.mean.to(rows)
        return self._run(self.shown, rows)

    @cached_property
    def equalized(self) -> Hidden:
        """What the head gets where all input rows have the same norm."""
        return self._run(self.shown, self.rows.equalized(self.shown))

    @cached_property
    def exchanged(self) -> Hidden:
        """The same with the row of another token in place of the probed one's."""
        rows = self.rows.equalized(self.shown).clone()
        rows[self.each, self.positions] = self.rows.equalized(self.replacements)
        return self._run(self.shown, rows)

    @cached_property
    def self_masked(self) -> Hidden:
        """What the head of a masked LM gets where the probed token itself is masked."""
        ids = self._masked(self.positions)
        return self._run(ids, self.rows.look_up(ids))

    def attributed(self, method: str) -> Scores:
        """Scores of every position for the model's own prediction at the end of the context."""
        if method not in self._attributed:
            with torch.enable_grad():
                self._attributed[method] = METHODS[method].function(self._question)
        return self._attributed[method]

    def divergence(self, before: Hidden, after: Hidden, where: Pairs) -> Float[Tensor, " P"]:
        """KL(prediction before || prediction after) in nats, at some positions."""
        parts = (
            kl_divergence(self.model.head(before[at]), self.model.head(after[at]))
            for at in zip(*(each.split(CHUNK) for each in where), strict=True)
        )
        return torch.cat(list(parts))

    def surprisal(
        self, states: Hidden, where: Pairs, targets: Int[Tensor, " P"]
    ) -> Float[Tensor, " P"]:
        """-log probability in nats of a target at each of some positions."""
        parts = []
        for contexts, positions, wanted in zip(
            *(each.split(CHUNK) for each in (*where, targets)), strict=True
        ):
            logits = self.model.head(states[contexts, positions]).float()
            parts.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
        return torch.cat(parts)

    @cached_property
    def _question(self) -> Question:
        return question_of_ids(self.model, self.ids, Settings(counts=self.counts))

    def _masked(self, positions: Int[Tensor, " N"]) -> Int[Tensor, "N L"]:
        ids, mask = self.ids.clone(), self.model.tokenizer.mask_token_id
        assert isinstance(mask, int)
        ids[self.each, positions] = mask
        return ids

    def _run(self, ids: Int[Tensor, "N L"], rows: Rows) -> Hidden:
        segments = torch.zeros_like(ids) if self.model.has_segments else None
        reading = self.model.read(Batch(ids, torch.ones_like(ids), segments), rows=rows)
        states, columns = reading.read.final, reading.columns
        assert reading.logits is not None
        own = reading.logits[:, -1]
        if own.isfinite().all() and not nearly_equal(self.model.head(states[:, -1], columns), own):
            raise CheckpointError(
                f"{self.model.name}: its head, applied to one representation, does not give the "
                "network's own logits in these contexts, so importances cannot be read through it"
            )
        return states
