import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.corpus.tokens import StreamInfo, TokenStream
from dynamics.training.data import IGNORED, CausalRows, MaskedRows

reproducible = settings(deadline=None, derandomize=True)

END, MASK, POSITIONS, ROWS = 0, 1, 40, 25
SEEDS = st.integers(0, 2**32)
EXAMPLES = st.lists(st.integers(0, 10**9), min_size=1, max_size=6)


def stream_of(ids):
    info = StreamInfo("<u2", len(ids), ids.shape[1] - 1, end_of_text_id=END)
    return TokenStream(None, info, ids.astype("<u2"))


def some_stream():
    ids = np.random.default_rng(0).integers(2, 100, (ROWS, POSITIONS + 1))
    ids[:, ::7] = END
    return stream_of(ids)


def masked_rows(stream=None, seed=0, share=0.15, random_ids=range(100, 200)):
    return MaskedRows(
        stream or some_stream(),
        10**10,
        mask_id=MASK,
        random_ids=np.array(random_ids),
        share=share,
        seed=seed,
    )


@reproducible
@given(EXAMPLES)
def test_causal_rows_come_in_the_order_asked_for_and_every_pass_has_the_same(examples):
    stream = some_stream()
    batch = CausalRows(stream, 10**10).__getitems__(examples)
    for example, ids, labels in zip(examples, batch["input_ids"], batch["labels"], strict=True):
        row = stream.ids[example % ROWS].astype(np.int64)
        assert ids.tolist() == row[:-1].tolist()
        assert labels.tolist() == row[1:].tolist()


@reproducible
@given(SEEDS, EXAMPLES)
def test_a_mask_depends_on_seed_and_example_alone_not_on_batch_or_history(seed, examples):
    together = masked_rows(seed=seed).__getitems__(examples)
    rows = masked_rows(seed=seed)
    for index in reversed(range(len(examples))):
        np.random.default_rng().random()
        alone = rows.__getitems__([examples[index]])
        for key in together:
            assert torch.equal(alone[key][0], together[key][index])


@reproducible
@given(SEEDS, st.integers(0, 10**9))
def test_masks_differ_between_seeds_and_between_passes_over_the_same_row(seed, example):
    one = masked_rows(seed=seed).__getitems__([example])["labels"]
    next_pass = masked_rows(seed=seed).__getitems__([example + ROWS])["labels"]
    other_seed = masked_rows(seed=seed + 1).__getitems__([example])["labels"]
    # 6 of 34 positions: two draws agree once in a million
    assert not torch.equal(one, next_pass) and not torch.equal(one, other_seed)


@reproducible
@given(SEEDS, EXAMPLES, st.floats(0.01, 0.8))
def test_the_number_of_targets_is_fixed_and_end_of_text_is_never_one(seed, examples, share):
    rows = masked_rows(seed=seed, share=share)
    batch = rows.__getitems__(examples)
    chosen = batch["labels"] != IGNORED
    assert rows.targets_per_row == max(1, round(share * POSITIONS))
    assert (chosen.sum(1) == min(rows.targets_per_row, 34)).all()
    original = torch.from_numpy(rows.stream.ids[np.array(examples) % ROWS].astype(np.int64))
    original = original[:, :-1]
    assert not (original[chosen] == END).any()
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])


def test_a_row_of_nothing_but_end_of_text_has_no_targets():
    batch = masked_rows(stream_of(np.zeros((1, 11), int))).__getitems__([0])
    assert (batch["labels"] == IGNORED).all() and (batch["input_ids"] == END).all()


def test_of_the_targets_80_percent_are_masked_10_random_and_10_left():
    batch = masked_rows(share=0.5).__getitems__(range(2500))
    chosen = batch["labels"] != IGNORED
    shown, original = batch["input_ids"][chosen], batch["labels"][chosen]
    n = chosen.sum().item()
    assert n == 50_000
    shares = [
        (shown == MASK).sum() / n,
        ((shown >= 100) & (shown < 200)).sum() / n,
        (shown == original).sum() / n,
    ]
    assert sum(shares).item() == pytest.approx(1)
    # five standard errors
    assert [share.item() for share in shares] == pytest.approx([0.8, 0.1, 0.1], abs=0.009)


def test_every_position_but_end_of_text_is_chosen_equally_often():
    labels = masked_rows(stream_of(np.arange(2, 23)[None])).__getitems__(range(20_000))["labels"]
    counts = (labels != IGNORED).sum(0)
    assert counts.sum() == 60_000
    assert (counts - 3000).abs().max() < 5 * 3000**0.5


@reproducible
@given(SEEDS)
def test_reading_a_batch_leaves_the_stream_alone(seed):
    stream = some_stream()
    before = stream.ids.copy()
    masked_rows(stream, seed=seed).__getitems__([3, 4])
    assert np.array_equal(stream.ids, before)
