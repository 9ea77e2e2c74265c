"""Names are those that readmes, tables and issues of the series quote, or of their pattern."""

import re
from pathlib import Path

import pytest
import yaml

from dynamics.checkpoints.architectures import FAMILIES, Role
from dynamics.checkpoints.catalog import public_series as catalog_module
from dynamics.checkpoints.catalog.public_series import catalog, families, find
from dynamics.checkpoints.catalog.revision_names import expand_steps, tokens_at
from dynamics.checkpoints.series_description import cost, describe_series
from dynamics.errors import CheckpointError, StepError

SERIES = list(catalog().values())

# Series, a name that exists, its step, the tokens seen, whether they are only the label.
QUOTED = [
    ("pythia-160m", "step143000", 143000, 299_892_736_000, False),
    ("pythia-160m", "step0", 0, 0, False),
    ("pythia-160m-seed3", "step512", 512, 512 * 2097152, False),
    ("olmo-1b", "step738020-tokens3094B", 738020, 3_095_480_238_080, False),
    ("olmo-1b-hf", "step1000-tokens4B", 1000, 4_194_304_000, False),
    ("olmo-1b-0724-hf", "step1454000-tokens3048B", 1454000, 3_049_259_008_000, False),
    ("olmo-7b", "step50000-tokens221B", 50000, 221_184_000_000, False),
    ("olmo-7b-twin-2t", "step1000-tokens4B", 1000, 4_000_000_000, True),
    ("olmo-2-0425-1b-early-training", "stage1-step1000-tokens3B", 1000, 2_097_152_000, False),
    ("olmo-2-0425-1b", "stage1-step1907359-tokens4001B", 1907359, 1907359 * 2097152, False),
    ("olmo-2-0325-32b", "stage1-step721901-tokens6056B", 721901, 721901 * 8388608, False),
    ("olmo-2-1124-7b", "step1000-tokens5B", 1000, 4_194_304_000, False),
    ("olmo-3-1025-7b", "stage1-step1000", 1000, 4_194_304_000, False),
    ("olmoe-1b-7b-0924", "step1220000-tokens5117B", 1220000, 1220000 * 4194304, False),
    ("datadecide-dolma1_7-1b", "step69369-seed-default", 69369, 69369 * 1441792, False),
    ("datadecide-dclm-baseline-150m", "step37500-seed-default", 37500, None, False),
    ("amber", "ckpt_000", 0, 3_495_886_848, False),
    ("amber", "ckpt_358", 358, 359 * 3_495_886_848, False),
    ("crystal", "CrystalCoder_phase1_checkpoint_079721", 79721, 79721 * 4325376, False),
    ("bloom-560m-intermediate", "global_step1000", 1000, None, False),
    ("alias-gpt2-small-x21", "checkpoint-400000", 400000, 400000 * 524288, False),
    ("multiberts-seed_3", "google/multiberts-seed_3-step_20k", 20000, 20000 * 131072, False),
    ("tinyllama-1.1b", "PY007/TinyLlama-1.1B-step-50K-105b", 50000, 50000 * 2097152, False),
    (
        "tinyllama-1.1b",
        "TinyLlama/TinyLlama-1.1B-intermediate-step-1195k-token-2.5T",
        1195000,
        1195000 * 2097152,
        False,
    ),
    (
        "tinyllama-intermediate-checkpoints",
        "step-480k-token-1007B",
        480000,
        480000 * 2097152,
        False,
    ),
    ("smollm2-135m-intermediate-checkpoints", "step-240000", 240000, 240000 * 1048576, False),
    ("smollm3-3b-checkpoints", "stage2-step-4200000", 4200000, 4200000 * 2359296, False),
    ("ettin-encoder-17m", "step599525", 599525, None, False),
    ("pico-decoder-tiny", "Saving HF Model -- Step 125000", 125000, 125000 * 2097152, False),
    ("apertus-8b-2509", "step2627139-tokens15T", 2627139, 14_999_997_120_512, False),
    ("baichuan2-7b-intermediate-checkpoints", "train_00220B", 220, 220_000_000_000, False),
    ("neo_7b_intermediate", "iter_0444213", 444213, 444213 * 8388608, False),
    ("lucie-7b", "step0753851", 753851, None, False),
]

OTHERS = [
    "main",
    "refs/convert/parquet",
    "step1000-extra",
    "Saving Evaluation Results -- Step 1000",
    "Saving Fabric Checkpoint -- Step 1000",
    "it-SFT",
    "google/multiberts-seed_0",
]


@pytest.mark.parametrize(("name", "revision", "step", "tokens", "rounded"), QUOTED)
def test_quoted_names(name, revision, step, tokens, rounded):
    found = find(name).parse([*OTHERS, revision, revision])
    assert found.pop(step).__dict__ | {"stage": None, "seed": None} == {
        "name": revision,
        "step": step,
        "tokens_seen": tokens,
        "tokens_rounded": rounded,
        "stage": None,
        "seed": None,
    }
    assert all(each.name == "main" for each in found.values())


def test_every_pattern_is_tried():
    tried = {find(name).family for name, *_ in QUOTED}
    assert tried | {"marin", "polypythias"} == set(families())


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ("pythia-160m pythia-12b-deduped pythia-410m-seed6 pythia-160m-data-seed1", 154),
        ("alias-gpt2-small-x21 eowyn-gpt2-medium-x777", 609),
        ("multiberts-seed_0", 28),
        ("apertus-8b-2509", 44),
        ("lucie-7b", 35),
        ("olmoe-1b-7b-0924", 244),
        ("smollm3-3b-checkpoints", 118),
        ("olmo-2-0425-1b-early-training", 37),
        ("bloom-1b1-intermediate", 8),
        ("smollm2-135m-intermediate-checkpoints", 8),
        ("smollm2-1.7b-intermediate-checkpoints", 41),
        ("baichuan2-7b-intermediate-checkpoints", 11),
        ("tinyllama-1.1b", 7),
        ("amber", 360),
        ("pico-decoder-small", 126),
    ],
)
def test_counts_follow_from_the_rules(names, count):
    assert [len(find(name).expected_steps) for name in names.split()] == [count] * len(
        names.split()
    )


def test_datadecide_has_one_last_step_more_than_its_rule():
    for series in SERIES:
        if series.family == "datadecide" and series.expected and series.expected_count:
            assert len(series.expected_steps) == series.expected_count - 1


def test_families():
    assert len([series for series in SERIES if series.family == "datadecide"]) == 25 * 14
    assert len([series for series in SERIES if series.family == "polypythias"]) == 5 * 9 + 6
    assert len([series for series in SERIES if series.family == "pythia"]) == 10 + 8


def test_names_aliases_and_repositories_are_unique():
    for names in (
        [name for series in SERIES for name in (series.name, *series.aliases)],
        [repository.lower() for series in SERIES for repository in series.repositories],
    ):
        assert len(names) == len(set(names))
        assert not [name for name in names if "{" in name]


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_entry(series):
    assert series.name == series.name.lower()
    for repository in series.repositories:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+\*?", repository)
    for pattern in series.revisions:
        assert {"step"} <= re.compile(pattern).groupindex.keys() <= {
            "step", "tokens", "unit", "stage", "seed"
        }  # fmt: skip
    assert (series.branch is not None) == (series.where == "commit")
    assert series.readable == (series.unreadable_because is None)
    assert not series.readable or series.architecture in FAMILIES
    assert set(re.split(r"\+", series.evidence)) <= set("SIHTK")
    assert len(series.repositories) == 1 or series.where == "repository"
    assert None in (series.rows, series.tokenizer_size) or series.rows >= series.tokenizer_size
    stream = series.corpus.stream
    if stream:
        assert stream.rows_per_step * (stream.row - 1) == series.tokens_per_step
    for defect in series.defects:
        assert defect.link is None or re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", defect.link)
        assert set(defect.tensors) <= set(Role.__args__)
        if defect.steps:
            steps = expand_steps(defect.steps, series.last)
            assert steps
            assert not series.expected_steps or set(steps) <= set(series.expected_steps)


def test_defects_of_pythia():
    repeated = [each for each in find("pythia-2.8b").defects if each.kind == "repeated"]
    steps = [expand_steps(each.steps, 143000) for each in repeated]
    assert [len(each) for each in steps] == [76, 10]
    assert len(set(steps[0]) | set(steps[1])) == 86
    assert repeated[0].url == "https://github.com/EleutherAI/pythia/issues/205"
    assert find("pythia-160m").warmup_from_zero
    shard = [each for each in find("pythia-12b").defects if each.kind == "wrong_shard"]
    assert shard[0].tensors == ("input_embedding",)
    assert "missing" not in {each.kind for each in find("pythia-410m-seed1").defects}
    missing = [each for each in find("pythia-410m-seed6").defects if each.kind == "missing"]
    assert [each.steps for each in missing] == ["88000"]


def test_patterns_of_defects_name_series():
    data = yaml.safe_load(Path(catalog_module.__file__).with_name("public_series.yaml").read_text())
    for family in data["families"]:
        for defect in family.get("defects", ()):
            concerned = [
                series.name
                for series in SERIES
                if series.family == family["family"]
                and defect["what"] in [each.what for each in series.defects]
            ]
            assert concerned, defect["what"]
            assert not defect.get("series") or len(concerned) >= len(defect["series"])


def test_shapes():
    assert find("pythia-6.9b").rows == 50432
    assert find("pythia-12b").rows == 50688
    assert (find("pythia-160m").rows, find("pythia-160m").tokenizer_size) == (50304, 50277)
    assert find("olmo-1b").tied
    assert not find("olmo-7b").tied
    assert find("pythia-160m-seed1").corpus.stream.same_order is False
    assert find("pythia-160m-weight-seed1").corpus.stream.same_order
    assert find("pythia-160m").corpus.stream.dataset == (
        "EleutherAI/pile-standard-pythia-preshuffled"
    )


def test_main_stands_in_for_a_step_without_a_branch():
    assert list(find("amber").parse(["main", "ckpt_000"])) == [0, 359]
    assert find("amber").parse(["main"])[359].tokens_seen == 360 * 3_495_886_848
    assert find("pythia-160m").parse(["main", "step143000"])[143000].name == "step143000"
    assert find("olmo-2-7b").parse(["main"]) == {}


def test_stages():
    names = [
        "stage1-step1000-tokens3B",
        "stage2-ingredient1-step1000-tokens3B",
        "stage2-ingredient3-step1000-tokens3B",
        "stage2-ingredient3-step23852-tokens51B",
    ]
    series = find("olmo-2-1b")
    assert [each.name for each in series.parse(names).values()] == names[:1]
    chosen = series.parse(names, stage="stage2-ingredient3")
    assert [each.name for each in chosen.values()] == names[2:]
    assert [each.tokens_seen for each in chosen.values()] == [None, None]
    assert find("smollm3-3b-checkpoints").parse(
        ["stage1-step-40000", "stage2-step-3480000", "lc-4k-to-32k-step-4000"]
    ).keys() == {40000, 3480000}
    assert find("lucie-7b").parse(["step0005000", "extension_step0005000"]).keys() == {5000}
    assert list(find("ettin-decoder-1b").parse(["step2", "ext2", "decay3"], stage="decay")) == [3]


def test_stage_two_of_olmo_3_names_ingredients():
    names = ["stage1-step1000", "stage2-ingredient1-step1000", "stage2-ingredient2-step1000"]
    series = find("olmo-3-32b")
    assert [each.name for each in series.parse(names).values()] == names[:1]
    chosen = series.parse(names, stage="stage2-ingredient2")
    assert [(each.name, each.tokens_seen) for each in chosen.values()] == [(names[2], None)]


def test_early_branches_of_olmo_2_are_of_stage_1():
    steps = find("olmo-2-7b").parse(["step150-tokens1B", "stage1-step1000-tokens5B"])
    assert {step: each.tokens_seen for step, each in steps.items()} == {
        150: 150 * 4194304,
        1000: 1000 * 4194304,
    }


@pytest.mark.parametrize(
    ("name", "repeated"),
    [
        ("bloom-7b1-intermediate", ["100000,200000"]),
        ("bloom-560m-intermediate", ["10000,500000"]),
        ("bloom-1b7-intermediate", ["1000,10000", "250000,300000"]),
        ("bloom-3b-intermediate", []),
        ("olmo-7b-0424-hf", ["200000..251000/1000"]),
    ],
)
def test_repetitions_that_discussions_report(name, repeated):
    defects = [each for each in find(name).defects if each.kind == "repeated"]
    assert [each.steps for each in defects] == repeated
    for defect in defects:
        assert defect.source.startswith("D (no link")
        assert (defect.link, defect.repaired) == (None, name.startswith("olmo"))
    assert (250_000 in find(name).expected_steps) == (name == "bloom-1b7-intermediate")


def test_two_names_of_one_step():
    with pytest.raises(StepError, match=r"'stage1-step-40000' and 'stage2-step-40000' are both "
                       r"step 40000; choose the stage, stage1 or stage2"):  # fmt: skip
        find("smollm3-3b-checkpoints").parse(["stage2-step-40000", "stage1-step-40000"])
    with pytest.raises(StepError, match="are both step 5; keep one"):
        find("olmoe-1b-7b-0924").parse(["step5-tokens1B", "step5-tokens2B"])


def test_seeds():
    names = ["step0-seed-default", "step0-seed-small-aux-2", "step1250-seed-default"]
    series = find("datadecide-c4-4m")
    assert [each.name for each in series.parse(names).values()] == [names[0], names[2]]
    assert [each.name for each in series.parse(names, seed="small-aux-2").values()] == [names[1]]


@pytest.mark.parametrize(
    "name",
    ["pythia-160m", "Pythia-160M", "EleutherAI/pythia-160m", "eleutherai/Pythia-160m"],
)
def test_find(name):
    assert find(name).name == "pythia-160m"


def test_find_by_alias_or_a_repository_of_many():
    assert find("olmo-2-7b").repositories == ("allenai/OLMo-2-1124-7B",)
    assert find("google/multiberts-seed_2-step_40k").name == "multiberts-seed_2"
    assert find("PY007/TinyLlama-1.1B-step-50K-105b").name == "tinyllama-1.1b"


def test_unknown_name():
    with pytest.raises(CheckpointError, match=r"^'pythia-161m' is no public series; did you mean "):
        find("pythia-161m")
    with pytest.raises(CheckpointError, match=r"'xyz/qqq' is no public series; there are \d+ of"):
        find("xyz/qqq")


def test_rules():
    assert expand_steps("0,10..30/10+5", None) == (0, 5, 10, 20, 30)
    with pytest.raises(StepError, match=r"'every\(3\)' needs the last step"):
        expand_steps("1,every(3)", None)
    with pytest.raises(StepError, match="cannot read 'x'"):
        expand_steps("x", 3)


@pytest.mark.parametrize(
    ("step", "tokens"), [(0, 7), (10, 1007), (11, 1207), (20, 3007), (21, 3010)]
)
def test_tokens_where_the_batch_changes(step, tokens):
    assert tokens_at(step, {0: 100, 10: 200, 20: 3}, 7) == tokens


def test_cost():
    facts = describe_series("EleutherAI/pythia-160m")
    assert facts["steps"]["expected"] == 154
    assert facts["cost"]["bytes_per_embedding"] == 77_266_944
    assert facts["cost"]["bytes"] == 154 * 2 * 77_266_944
    assert facts["cost"]["whole_model_bytes_per_checkpoint"] == 2 * 162_322_944
    assert facts["cost"]["requests"] == [1 + 154 * 5, 1 + 154 * 10]
    assert facts["cost"]["assumed"] == []
    assert cost(find("bloom-560m-intermediate"), 2)["bytes"] == 2 * 2 * 250880 * 1024
    assert cost(find("lucie-7b")) is None
    assert cost(find("olmo-2-7b"))["bytes"] is None
    assert cost(find("olmo-2-7b"))["assumed"] == ["2 bytes per number"]
    for series in SERIES:
        describe_series(series.name)
