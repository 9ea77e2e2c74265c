"""Sentences on surgery and on raw output norms say what the run knows, and no more."""

import json

import pytest

from dynamics.runs.findings import findings
from dynamics.runs.run import Run
from tests.tracking.arms import made_run, trend_row

INPUT, OUTPUT = "input_embedding_norm", "output_embedding_norm_centered"
LAST = 32
CHANGES = {
    (INPUT, "shuffled"): 0.0004,
    (INPUT, "doubled"): 0.0018,
    (INPUT, "halved"): 0.0011,
    (OUTPUT, "shuffled"): 0.7,
    (OUTPUT, "shuffled_within_bins"): 0.58,
    (OUTPUT, "shuffled_within_top_bin"): 0.468,
    (OUTPUT, "shuffled_within_other_bins"): 0.101,
    (OUTPUT, "shuffled_among_neighbours"): 0.215,
    (OUTPUT, "doubled"): 0.9,
    (OUTPUT, "halved"): 0.3,
}


def change(measure, name, value, spread=0.0005):
    return trend_row(LAST, measure, "held_out_loss", f"surgery_{name}", value, spread=spread)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = [change(measure, name, value) for (measure, name), value in CHANGES.items()]
    rows.append(trend_row(LAST, "log_frequency", "", "top_bin_share", 0.47))
    return made_run(tmp_path_factory.mktemp("surgery"), rows=rows).path


@pytest.fixture
def told(folder):
    """Findings, with other facts in `run.json`; `architecture` of None is no live stage."""
    stored = (folder / "run.json").read_text()

    def tell(architecture=None, **series):
        info = json.loads(stored)
        info["series"] |= {"training": None, "logit_softcap": None} | series
        if architecture is not None:
            nothing = dict.fromkeys(("probes", "held_out_sha256"))
            info["live"] = {"settings": {}, "embeddings_only": [], "checkpoints": [], **nothing}
            info["live"]["architecture"] = architecture
        (folder / "run.json").write_text(json.dumps(info))
        return "\n".join(findings(Run(folder)))

    yield tell
    (folder / "run.json").write_text(stored)


def test_the_share_of_the_top_bin_is_said_beside_what_it_costs(told):
    assert (
        "  output embedding norms, uniform mean removed +0.7000 [+0.6995, +0.7005], within bins of "
        "frequency +0.5800 [+0.5795, +0.5805] (within the top bin alone, 100 tokens with 47% of "
        "all occurrences, +0.4680 [+0.4675, +0.4685]; within all others +0.1010 [+0.1005, "
        "+0.1015]), among 10 neighbours in frequency +0.2150 [+0.2145, +0.2155]\n"
    ) in told() + "\n"


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        (
            {"embedding_norm": "none", "first_block_norm": "layer"},
            "Before a LayerNorm through which the first block reads them, doubling every input row "
            "changes the loss by +0.0018 [+0.0013, +0.0023] nats, halving by +0.0011 [+0.0006, "
            "+0.0016], so that shuffling input norms could cost little whatever they mean.",
        ),
        (
            {"embedding_norm": "rms", "first_block_norm": "none"},
            "Before an RMSNorm in front of the first block, doubling every input row ",
        ),
        (
            {"embedding_norm": "none", "first_block_norm": "none"},
            "With no norm between input rows and first block, doubling every input row changes the "
            "loss by +0.0018 [+0.0013, +0.0023] nats, halving by +0.0011 [+0.0006, +0.0016].",
        ),
        ({"first_block_norm": "layer"}, "\nDoubling every input row changes the loss by +0.0018"),
        (None, "\nDoubling every input row changes the loss by +0.0018"),
    ],
)
def test_what_the_architecture_makes_of_scale(told, architecture, sentence):
    text = told(architecture)
    assert sentence in text
    expects_claim = architecture is not None and {"layer", "rms"} & {
        architecture.get("embedding_norm"),
        architecture.get("embedding_norm") and architecture.get("first_block_norm"),
    }
    assert ("could cost little whatever they mean" in text) == bool(expects_claim)


def test_where_scale_matters_no_excuse_is_made(tmp_path):
    rows = [change(INPUT, name, value) for name, value in (("doubled", 0.3), ("halved", 0.001))]
    run = made_run(tmp_path, rows=rows)
    info = json.loads((run.path / "run.json").read_text())
    nothing = dict.fromkeys(("probes", "held_out_sha256"))
    info["live"] = {"settings": {}, "embeddings_only": [], "checkpoints": [], **nothing}
    info["live"]["architecture"] = {"embedding_norm": "layer"}
    (run.path / "run.json").write_text(json.dumps(info))
    text = "\n".join(findings(Run(run.path)))
    assert "Before a LayerNorm in front of the first block, doubling every input row" in text
    assert "could cost little" not in text


@pytest.mark.parametrize(("cap", "expected"), [(0.0, True), (30.0, False), (None, False)])
def test_differences_of_logits_are_scaled_only_without_a_cap(told, cap, expected):
    text = told({} if cap is None else {"logit_softcap": cap})
    assert "Doubling the distance of every output row from the uniform mean changes the" in text
    assert ("differences of logits (bias apart) are doubled or halved by it" in text) == expected


@pytest.mark.parametrize(
    ("series", "architecture", "expected"),
    [
        ({"logit_softcap": 0.0}, None, True),
        ({"logit_softcap": 30.0}, None, False),
        ({"logit_softcap": 0.0, "tied": True}, None, False),
        ({}, None, False),  # nothing is known of a cap
        ({}, {"logit_softcap": 0.0}, True),
        ({"logit_softcap": 0.0}, {"logit_softcap": 2.0}, False),  # the live model counts first
        ({"training": {"model": {}}}, None, True),  # an older folder of a training of ours
    ],
)
def test_raw_output_norms_are_open_where_a_vector_is_known_to_be_free(
    told, series, architecture, expected
):
    text = told(architecture, **series)
    question = (
        "what raw output norms mean (a vector added to every output row changes no prediction: the "
        "rows are not those of the input, and nothing caps the logits)"
    )
    assert (question in text) == expected
    assert "a vector added" not in text.replace(question, "")
    assert ".; " not in text and "; ." not in text
