"""Whether a norm ranks the tokens of an input as the model's own prediction needs them.

Tracking correlates token types over a vocabulary; an attribution ranks the tokens inside one
input. `within_input_agreement` over the checkpoints of a series is the number that says when, if
ever, a norm explains predictions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from dynamics.attribution.from_ids import question_of_ids
from dynamics.attribution.methods import find_method
from dynamics.attribution.question import Question, Settings
from dynamics.models.live_model import LiveModel
from dynamics.statistics.within_input import within_input_agreement

AGREEMENT_METHODS = (
    "norm",
    "inverse_log_frequency",
    "recency",
    "logit",
    "normxlogit",
    "gradient_x_input",
)
"""The norm, what it may stand for (rarity), what any method must beat (recency), and its rivals."""

REFERENCE = "occlusion"
BATCH = 16  # inputs that are run at once


def agreement_rows(
    model: LiveModel,
    rows: Int[np.ndarray, "R T"],
    counts: Integer[np.ndarray, " tokens"],
    rng: np.random.Generator,
    *,
    methods: Sequence[str] = AGREEMENT_METHODS,
    batch_size: int = BATCH,
) -> Iterator[dict[str, object]]:
    """Mean over inputs of the rank correlation of each method with occlusion inside the input.

    Explained is the model's own prediction: what follows the row in a causal LM, what its last
    position holds in a masked one. Occlusion is that of the log-probability; in a causal LM the
    representation at the read-out is the prediction itself, so that position is left out, and so
    are special tokens. Inputs are the sampling unit.

    Args:
        model: A causal or masked LM.
        rows: Token ids of each input.
        counts: Occurrences of each token, for the baseline that ranks by frequency.
        rng: Seeds methods that draw.
        methods: Names in `METHODS`.
        batch_size: Inputs that are run at once.

    Yields:
        For each method, in order: `measure`, `against`, `statistic`, `given`, `value`, `low` and
        `high` (Student's 95 % interval over inputs), `n` (inputs that entered: those with three
        ranked positions or more, and scores that differ).

    Raises:
        ConfigError: There is no such method, it does not cover the model, or rows and model do not
            fit.
        MeasureError: The model gives logits that are not finite.
        MismatchError: The counts are of another vocabulary.
    """
    functions = {name: find_method(name, model).function for name in (*methods, REFERENCE)}
    settings = Settings(counts=counts, seed=int(rng.integers(2**31)))
    scores: dict[str, list[Float[np.ndarray, " T"]]] = {name: [] for name in functions}
    for ids in torch.from_numpy(np.asarray(rows, dtype=np.int64)).split(batch_size):
        question = question_of_ids(model, ids, settings)
        logs = replace(question, settings=replace(settings, logit_form="log_probability"))
        ranked = _ranked(question)
        for name, function in functions.items():
            values = function(logs if name == REFERENCE else question).values[:, :, 0]
            scores[name] += list(values.where(ranked, torch.nan).double().numpy(force=True))
    for name in methods:
        found = within_input_agreement(scores[name], scores[REFERENCE])
        yield {
            "measure": name,
            "against": REFERENCE,
            "statistic": "within_input_agreement",
            "given": "",
            "value": found.mean,
            "low": found.low,
            "high": found.high,
            "n": found.inputs,
        }


def _ranked(question: Question) -> Tensor:
    """Positions other than the read-out that hold no special token."""
    ids = question.scored_ids
    ranked = ~torch.isin(ids, torch.tensor(question.model.tokenizer.all_special_ids).to(ids))
    return ranked.scatter(1, question.readouts, False)
