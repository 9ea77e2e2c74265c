"""Agreement of norms with occlusion in ranking the tokens inside an input.

Tracking correlates token types over a vocabulary; an attribution ranks the tokens inside one
input. `within_input_agreement` over the checkpoints of a series shows when, if ever, a norm
explains predictions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch
from dynamics.attribution.from_ids import batch_of_ids
from dynamics.attribution.methods import find_method
from dynamics.attribution.settings import AttributionSettings
from dynamics.models.live_model import LiveModel
from dynamics.runs.trends import Row, trend_row
from dynamics.statistics.intervals import Interval
from dynamics.statistics.within_input import within_input_agreement

AGREEMENT_METHODS = (
    "norm",
    "inverse_log_frequency",
    "recency",
    "logit",
    "normxlogit",
    "gradient_x_input",
)
"""The norm, a possible cause of it (rarity), a baseline to beat (recency), and rival methods."""

REFERENCE = "occlusion"
BATCH = 16  # inputs that run at once


def agreement_rows(
    model: LiveModel,
    rows: Int[np.ndarray, "R T"],
    counts: Integer[np.ndarray, " tokens"],
    rng: np.random.Generator,
    *,
    methods: Sequence[str] = AGREEMENT_METHODS,
    batch_size: int = BATCH,
) -> Iterator[Row]:
    """Mean over inputs of the rank correlation of each method with occlusion inside the input.

    The model's own prediction is explained: of the token after the row in a causal LM, of the
    masked last token in a masked LM. Occlusion is that of the log-probability; in a causal LM the
    representation at the read-out is the prediction itself, so that position is left out, and so
    are special tokens. Inputs are the sampling unit.

    Args:
        model: A causal or masked LM.
        rows: Token ids of each input.
        counts: Occurrences of each token, for the baseline that ranks by frequency.
        rng: Generator for the seed of methods that draw.
        methods: Names in `METHODS`.
        batch_size: Inputs that run at once.

    Yields:
        For each method, in order, a row of trends without a step: `low` and `high` are Student's 95
        % interval over inputs, `n` the inputs that entered: those with three ranked positions or
        more, and scores that differ.

    Raises:
        ConfigError: There is no such method, it does not cover the model, or rows and model do not
            fit.
        MeasureError: The model gives logits that are not finite.
        MismatchError: The counts are of another vocabulary.
    """
    functions = {name: find_method(name, model).function for name in (*methods, REFERENCE)}
    settings = AttributionSettings(counts=counts, seed=int(rng.integers(2**31)))
    scores: dict[str, list[Float[np.ndarray, " T"]]] = {name: [] for name in functions}
    for ids in torch.from_numpy(np.asarray(rows, dtype=np.int64)).split(batch_size):
        batch = batch_of_ids(model, ids, settings)
        logs = replace(batch, settings=replace(settings, logit_form="log_probability"))
        ranked = _ranked_positions(batch)
        for name, function in functions.items():
            values = function(logs if name == REFERENCE else batch).values[:, :, 0]
            scores[name] += list(values.where(ranked, torch.nan).double().numpy(force=True))
    for name in methods:
        agreement = within_input_agreement(scores[name], scores[REFERENCE])
        yield trend_row(
            agreement.mean,
            agreement.inputs,
            interval=Interval(agreement.low, agreement.high),
            measure=name,
            against=REFERENCE,
            statistic="within_input_agreement",
        )


def _ranked_positions(batch: AttributionBatch) -> Tensor:
    """Mask of the positions other than the read-out that hold no special token."""
    ids = batch.scored_ids
    ranked = ~torch.isin(ids, torch.tensor(batch.model.tokenizer.all_special_ids).to(ids))
    return ranked.scatter(1, batch.readouts, False)
