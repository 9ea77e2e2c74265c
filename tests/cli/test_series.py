import json

import pytest

from dynamics.__main__ import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["series", *arguments])
    return end.value.code, capsys.readouterr()


def test_list(capsys):
    code, shown = run(capsys, "list")
    lines = shown.out.splitlines()
    assert code == 0
    words = [" ".join(line.split()) for line in lines]
    assert words[0] == "name family steps tokens tied licence defects readable"
    assert words[8] == "pythia-2.8b pythia 154 300B no apache-2.0 2 yes"
    assert "... 349 more; --family datadecide lists them" in lines


def test_list_of_a_family(capsys):
    _, shown = run(capsys, "list", "--family", "datadecide")
    assert len(shown.out.splitlines()) == 1 + 350
    _, shown = run(capsys, "list", "--family", "bloom", "--json")
    listed = json.loads(shown.out)["series"]
    assert listed[0] == {
        "name": "bloom-560m-intermediate",
        "family": "bloom",
        "steps": 8,
        "tokens": None,
        "tied": True,
        "licence": "bigscience-bloom-rail-1.0",
        "defects": 1,
        "readable": True,
    }


def test_show(capsys):
    code, shown = run(capsys, "show", "pythia-12b", "--offline")
    assert code == 0
    for part in (
        "pythia-12b (pythia)",
        "154 expected, one per branch",
        "log2(512)+every(1000)",
        "50,688, 50,277",
        "1.04 GB of 23.7 GB, 4.4%",
        "160 GB of 3.65 TB, about 771 to 1,541 requests",
        "EleutherAI/pile-standard-pythia-preshuffled",
        "wrong shard: steps 50000,58000: the first shard",
        "https://github.com/EleutherAI/pythia/issues/206",
        "missing, repaired: steps 4000,32000",
    ):
        assert part in shown.out


def test_show_what_cannot_be_read(capsys):
    _, shown = run(capsys, "show", "neo_7b_intermediate", "--offline")
    assert "not readable     raw Megatron files" in shown.out
    assert "unknown, as the shapes are unknown" in shown.out


def test_show_as_json(capsys):
    _, shown = run(capsys, "show", "apertus-8b-2509", "--offline", "--json")
    facts = json.loads(shown.out)
    assert facts["repositories"] == ["swiss-ai/Apertus-8B-2509"]
    assert facts["steps"]["expected"] == 44
    assert facts["tokens_per_step"] == {"0": 4194304, "1678000": 8388608}
    assert facts["unverified"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "pythia-160"], "'pythia-160' is no public series; did you mean 'pythia-160m'?"),
        (["list", "--family", "pythias"], "no family 'pythias'; did you mean 'pythia'?"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    code, shown = run(capsys, *arguments)
    assert code == 2
    assert shown.err.startswith(f"dynamics: {message}")
    assert len(shown.err.splitlines()) == 1
    assert not shown.out
