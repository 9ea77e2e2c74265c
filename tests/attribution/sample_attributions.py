"""Attributions as a model could have made them, without one."""

import numpy as np

from dynamics.attribution.result import Attribution, Target

TOKENS = ["<s>", " Once", " upon", " a", " ti", "me"]
WORDS = [None, 0, 1, 2, 3, 3]


def make(count=1, **changes):
    """Six tokens, the last of which cannot be seen by what is predicted there; no two scores equal.

    count: of targets, one after the other from the last position on.
    """
    generator = np.random.default_rng(changes.get("layer") or 0)
    norm = generator.uniform(1, 2, 6)
    logit = generator.normal(size=(6, count)).astype(np.float32).astype(float)
    scores = (norm[:, None] * logit).astype(np.float32).astype(float)
    for target in range(count):
        scores[5 + target :, target] = np.nan
    content = {
        "text": "Once upon a time",
        "tokens": TOKENS,
        "token_ids": [1, 403, 407, 261, 70, 71],
        "special": [True, False, False, False, False, False],
        "words": WORDS,
        "targets": [Target(5 + each, 80 + each, f" t{each}") for each in range(count)],
        "scores": scores,
        "method": "normxlogit",
        "model": "tiny",
        "norm": norm,
        "logit": logit,
        "task": "causal",
    }
    return Attribution(**content | changes)


def with_scores(scores, **changes):
    """One target with these scores of the six tokens, and no factors."""
    column = np.array(scores, dtype=float)[:, None]
    return make(scores=column, norm=None, logit=None, **changes)
