from functools import cache

import numpy as np
import pytest

from dynamics.attribution.attribute import attribute
from dynamics.attribution.settings import AttributionSettings
from dynamics.attribution.targets import TargetSpec
from dynamics.errors import ConfigError, MismatchError
from tests.models.tiny import V, live

TEXTS = ["the cat sat on the mat", "not a very bad film"]

model = cache(live)


def scored(method, name="gpt_neox", texts=TEXTS, target_spec=None, **settings):
    return list(
        attribute(
            model(name),
            texts,
            method=method,
            target_spec=target_spec,
            settings=AttributionSettings(**settings),
        )
    )


def test_random_scores_depend_on_the_text_and_the_seed_only():
    alone = [scored("random", texts=[text])[0].scores for text in TEXTS]
    together = [each.scores for each in scored("random")]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (scored("random", seed=1)[0].scores != together[0]).all()


def test_random_scores_are_uniform_over_seeds():
    draws = np.stack(
        [scored("random", texts=["the cat sat"], seed=s)[0].scores for s in range(400)]
    )
    assert draws.min() >= 0 and draws.max() <= 1
    assert np.abs(draws.mean(0) - 1 / 2).max() < 4 * np.sqrt(1 / 12 / 400)
    orders = {tuple(np.argsort(draw[:, 0])) for draw in draws}
    assert len(orders) == 6


def test_recency_is_the_distance_to_the_read_out():
    (found,) = scored("recency", texts=["the cat sat"], target_spec=TargetSpec(target="given"))
    expected = [[0, -1], [np.nan, 0], [np.nan, np.nan]]
    np.testing.assert_array_equal(found.scores, expected)
    mask = model("bert").tokenizer.mask_token
    (found,) = scored("recency", "bert", [f"the {mask} sat"])
    assert found.scores[:, 0].tolist() == [-2, -1, 0, -1, -2]


def test_rare_tokens_come_first():
    counts = np.arange(V) * 10
    (found,) = scored("inverse_log_frequency", texts=["the cat sat"], counts=counts)
    expected = [-np.log((10 * each + 1) / (counts.sum() + V)) for each in found.token_ids]
    np.testing.assert_allclose(found.scores[:, 0], expected, rtol=1e-6)


def test_a_token_that_was_never_seen_has_a_finite_score():
    (found,) = scored("inverse_log_frequency", texts=["the"], counts=np.zeros(V))
    np.testing.assert_allclose(found.scores, np.log(V), rtol=1e-6)


def test_length_counts_no_space_and_no_continuation_mark():
    mask = model("bert").tokenizer.mask_token
    (found,) = scored("token_length", "bert", [f"very zx {mask}"])
    assert found.scores[~np.array(found.special), 0].tolist() == [4, 1, 1, 6]
    (found,) = scored("token_length", texts=["very zx"])
    assert found.scores[:, 0].tolist()[0] == 4


def test_messages():
    with pytest.raises(ConfigError, match="needs the counts"):
        scored("inverse_log_frequency")
    with pytest.raises(MismatchError, match="the counts have 3 tokens"):
        scored("inverse_log_frequency", counts=np.ones(3))
