"""From facts to findings: nothing is read."""

import numpy as np
import pytest

from dynamics.audit.checks import run_checks
from dynamics.audit.facts import Block, CheckpointFacts, SeriesFacts, TensorFacts
from dynamics.audit.finding import name_steps
from dynamics.checkpoints.catalog.public_series import catalog
from dynamics.checkpoints.catalog.revision_names import expand_steps
from tests.tracking.trajectories import PYTHIA, STEPS

BOTH = ("input_embedding", "output_embedding")


def of_files(step, **hashes):
    """A checkpoint of which the hashes of two shards are known."""
    hashes = {role: f"{role} {step}" for role in BOTH} | hashes
    tensors = {role: TensorFacts("float16", (40, 8), hashes[role]) for role in BOTH}
    return CheckpointFacts(step, f"step{step}", tensors=tensors)


def facts_of(files, wanted=None, level="none", **more):
    """Facts of a series, from the hash of each of its files by step; None where it is its own."""
    read = [of_files(s, **(dict.fromkeys(BOTH, h) if h else {})) for s, h in files.items()]
    chosen = tuple(each for each in read if wanted is None or each.step in wanted)
    steps = tuple(files)
    return SeriesFacts("x", level, wanted or steps, steps, chosen, read[-1], **more)


def flagged(findings):
    return sorted({step for finding in findings for step in finding.flagged})


def of(findings, *kinds):
    return [(f.kind, f.severity, f.steps) for f in findings if not kinds or f.kind in kinds]


def clean(steps=STEPS):
    return dict.fromkeys(steps)


def test_nothing_to_say_of_a_clean_series():
    assert run_checks(facts_of(clean())) == []


def test_of_two_equal_steps_neither_is_trusted():
    (found,) = run_checks(facts_of(clean() | {64: "a", 4000: "a"}))
    assert (found.kind, found.severity, found.flagged, found.role) == (
        "repeated",
        "wrong",
        (64, 4000),
        None,
    )
    assert "which of them it belongs to is not known" in found.message


def test_what_the_last_step_holds_is_late():
    (found,) = run_checks(facts_of(clean() | {64: "a", 13000: "a"}))
    assert found.flagged == (64,)
    assert "late weights under early names; step 13000 is kept" in found.message


def test_the_last_step_is_compared_when_it_is_not_selected():
    (found,) = run_checks(facts_of(clean() | {64: "a", 13000: "a"}, wanted=(32, 64, 128)))
    assert found.flagged == (64,)


def test_steps_that_hold_what_main_holds_are_late():
    files = clean() | {64: "a", 128: "a", 256: "b", 13000: "b"}
    found = run_checks(facts_of(files, main=of_files(13000, **dict.fromkeys(BOTH, "a"))))
    assert flagged(found) == [64, 128, 256]


def test_one_tensor_of_two_is_named():
    facts = facts_of(clean())
    at = STEPS.index(4000)
    wrong = of_files(4000, input_embedding="input_embedding 13000")
    chosen = (*facts.checkpoints[:at], wrong, *facts.checkpoints[at + 1 :])
    (found,) = run_checks(SeriesFacts(**(vars(facts) | {"checkpoints": chosen})))
    assert (found.role, found.flagged) == ("input_embedding", (4000,))


PYTHIA_160M = catalog()["pythia-160m"]


@pytest.mark.parametrize("more", [{"catalog_entry": PYTHIA_160M}, {"first_learning_rate": 0.0}])
def test_equal_first_steps_are_explained_by_a_first_update_without_effect(more):
    found = run_checks(facts_of(clean(PYTHIA) | {0: "a", 1: "a"}, **more))
    assert ("repeated", "explained", (0, 1)) in of(found)
    assert flagged(found) == []
    assert not any(each.severity == "wrong" for each in found)


@pytest.mark.parametrize("more", [{}, {"first_learning_rate": 1e-6}])
def test_equal_first_steps_are_wrong_without_an_explanation(more):
    assert flagged(run_checks(facts_of(clean() | {0: "a", 1: "a"}, **more))) == [0, 1]


def test_explained_steps_are_kept_when_another_repeats_them():
    found = run_checks(
        facts_of(clean(PYTHIA) | {0: "a", 1: "a", 5000: "a"}, catalog_entry=PYTHIA_160M)
    )
    assert flagged(found) == [5000]
    assert ("repeated", "explained", (0, 1)) in of(found)


def test_first_steps_that_hold_late_weights_are_not_explained():
    late = of_files(143000, **dict.fromkeys(BOTH, "a"))
    for files in ({143000: None}, {143000: "a"}):
        files = clean(PYTHIA) | {0: "a", 1: "a"} | files
        found = run_checks(facts_of(files, catalog_entry=PYTHIA_160M, main=late, wanted=(0, 1)))
        assert flagged(found) == [0, 1]


def test_repetitions_of_pythia_2_8b_are_found_and_known():
    known = catalog()["pythia-2.8b"]
    first, second = (each for each in known.defects if each.kind == "repeated")
    files = clean(PYTHIA)
    files |= dict.fromkeys(expand_steps(first.steps, known.last), "a")
    files |= dict.fromkeys(expand_steps(second.steps, known.last), "b")
    found = run_checks(
        facts_of(files, catalog_entry=known, main=of_files(143000, **dict.fromkeys(BOTH, "a")))
    )
    assert len(flagged(found)) == 85  # all 86 but the last
    told = [each for each in found if each.kind == "known defect" and each.severity == "wrong"]
    assert [each.link for each in told] == ["https://github.com/EleutherAI/pythia/issues/205"] * 2


def test_known_defects_that_are_gone_or_cannot_be_seen():
    found = run_checks(facts_of(clean(PYTHIA), catalog_entry=catalog()["pythia-2.8b"]))
    assert not any(each.severity == "wrong" for each in found)
    said = [each.message for each in found if each.kind == "known defect"]
    assert sum("not seen" in each for each in said) == 4
    found = run_checks(facts_of(clean(PYTHIA), catalog_entry=catalog()["pythia-410m-seed3"]))
    assert any("not checkable without reading" in each.message for each in found)
    found = run_checks(facts_of(clean(PYTHIA), catalog_entry=catalog()["pythia-6.9b-deduped"]))
    assert any("the catalog does not say which steps" in each.message for each in found)


def test_known_defect_of_one_shard():
    known = catalog()["pythia-12b"]
    facts = facts_of(clean(PYTHIA), catalog_entry=known)
    wrong = {s: of_files(s, input_embedding="input_embedding 143000") for s in (50000, 58000)}
    chosen = tuple(wrong.get(each.step, each) for each in facts.checkpoints)
    found = run_checks(SeriesFacts(**(vars(facts) | {"checkpoints": chosen})))
    assert flagged(found) == [50000, 58000]
    assert ("known defect", "wrong", (50000, 58000)) in of(found)


def test_missing_steps():
    known = catalog()["pythia-410m-seed9"]
    steps = [step for step in PYTHIA if step not in (16, 40000)]
    found = run_checks(facts_of(clean(steps), catalog_entry=known, wanted=tuple(PYTHIA)))
    assert of(found, "missing") == [("missing", "wrong", (16, 40000))]
    assert ("known defect", "wrong", (40000,)) in of(found)
    assert flagged(found) == []


def test_gaps_in_a_regular_schedule_are_noted():
    found = run_checks(facts_of(clean([s for s in STEPS if s not in (16, 5000, 6000)])))
    assert of(found) == [("missing", "note", (16, 5000, 6000))]


def test_checkpoints_that_hold_nothing():
    facts = facts_of(clean())
    broken = CheckpointFacts(4, "step4", problem="step4: holds no weights")
    chosen = (*facts.checkpoints[:3], broken, *facts.checkpoints[4:])
    found = run_checks(SeriesFacts(**(vars(facts) | {"checkpoints": chosen})))
    assert of(found) == [("unreadable", "wrong", (4,))]
    assert flagged(found) == [4]


def test_main():
    def said(of_main, level="none", **more):
        main = of_files(13000, **dict.fromkeys(BOTH, of_main)) if of_main else of_files(13000)
        return of(run_checks(facts_of(clean() | {512: "c"}, level=level, main=main, **more)))

    assert said(None) == []
    assert said("c") == [("main", "wrong", (512,))]
    assert said("other") == [("main", "note", (13000,))]
    assert said("other", "rows") == [("main", "note", (13000,))]
    steps = dict.fromkeys(PYTHIA)
    main = of_files(143000, **dict.fromkeys(BOTH, "other"))
    found = run_checks(facts_of(steps, level="rows", main=main, catalog_entry=PYTHIA_160M))
    assert ("main", "wrong", (143000,)) in of(found)


def test_main_that_cannot_be_read_is_noted():
    main = CheckpointFacts(13000, "main", problem="gone")
    assert of(run_checks(facts_of(clean(), main=main))) == [("main", "note", ())]


@pytest.mark.parametrize(
    ("tensors", "flags"),
    [
        (dict.fromkeys(BOTH, TensorFacts("float16", (41, 8), "x")), [4]),
        (dict.fromkeys(BOTH, TensorFacts("float32", (40, 8), "x")), []),
        ({"input_embedding": TensorFacts("float16", (40, 8), "x")}, [4]),
    ],
    ids=["shape", "dtype", "absent"],
)
def test_changes(tensors, flags):
    facts = facts_of(clean())
    other = CheckpointFacts(4, "step4", tensors=tensors)
    chosen = (*facts.checkpoints[:3], other, *facts.checkpoints[4:])
    found = run_checks(SeriesFacts(**(vars(facts) | {"checkpoints": chosen})))
    assert of(found) == [("changed", "wrong", (4,))]
    assert flagged(found) == flags


def test_padding_rows():
    (found,) = run_checks(facts_of(clean(), tokenizer_size=37))
    assert found.message == "3 of 40 rows are padding: the tokenizer has 37 entries"
    assert found.severity == "note"
    (found,) = run_checks(facts_of(clean(), tokenizer_size=41))
    assert found.severity == "wrong"


def test_series_of_which_no_hash_is_told():
    tensors = {"input_embedding": TensorFacts("float16", (40, 8))}
    read = tuple(CheckpointFacts(step, f"step{step}", tensors=tensors) for step in STEPS)
    facts = SeriesFacts("x", "none", tuple(STEPS), tuple(STEPS), read, read[-1])
    assert of(run_checks(facts)) == [("not compared", "note", tuple(STEPS))]


def test_what_is_not_finite_is_flagged():
    block = Block("a", float("nan"), np.full(4, np.nan, np.float32))
    broken = TensorFacts("float16", (40, 8), block=block, rows_read=(0, 40), not_finite=(5, 7))
    read = (CheckpointFacts(3, "step3", tensors={"input_embedding": broken}),)
    facts = SeriesFacts("x", "rows", (3,), (3,), read, read[-1])
    (found,) = run_checks(facts)
    assert (found.kind, found.flagged, found.rows) == ("not finite", (3,), (5, 7))
    assert found.message == "2 of 40 rows read hold NaN or infinity (5, 7)"


def test_steps_that_are_not_finite_are_neither_repetitions_nor_late():
    block = Block("all NaN", float("nan"), np.full(4, np.nan, np.float32))
    broken = TensorFacts(
        "float16", (40, 8), digest="nan", block=block, rows_read=(0, 40), not_finite=(*range(40),)
    )
    facts = facts_of(clean(), level="all")
    chosen = tuple(
        CheckpointFacts(each.step, each.name, tensors=dict.fromkeys(BOTH, broken))
        if each.step in (64, 13000)
        else each
        for each in facts.checkpoints
    )
    found = run_checks(SeriesFacts(**(vars(facts) | {"checkpoints": chosen, "last": chosen[-1]})))
    assert of(found) == [("not finite", "wrong", (64,)), ("not finite", "wrong", (13000,))]
    assert [each.role for each in found] == [None, None]


def test_a_hub_out_of_reach_flags_no_step():
    facts = facts_of(clean())
    away = CheckpointFacts(4, "step4", problem="the hub is silent", unreachable=True)
    chosen = (*facts.checkpoints[:3], away, *facts.checkpoints[4:])
    found = run_checks(SeriesFacts(**(vars(facts) | {"checkpoints": chosen})))
    assert of(found) == [("unreachable", "wrong", (4,))]
    assert flagged(found) == []


def test_what_was_passed_over_is_noted():
    found = run_checks(facts_of(clean(), notes=("skipped: best",)))
    assert [(each.kind, each.severity, each.message) for each in found] == [
        ("names", "note", "skipped: best")
    ]


def test_names_of_steps():
    assert name_steps([5]) == "5"
    assert name_steps(PYTHIA) == "0, 1, 2, ..., 1000..143000/1000"
    assert name_steps(range(1000, 9000, 1000)) == "1000..8000/1000"
