"""What the benchmark of attribution counts; times are for its readers."""

import pytest

from benchmarks.attribution import QUICK, compare, middle


@pytest.mark.slow
def test_normxlogit_takes_one_forward_pass_and_full_logits_take_the_memory(capsys):
    compare(QUICK, integrate=False)
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:21].strip(): line[21:].replace("(", ")").split(")") for line in lines[1:5]}
    passes = {name: tuple(map(float, row[2].split()[:3])) for name, row in rows.items()}
    assert {name: each[:2] for name, each in passes.items()} == {
        "full logits": (1, 0),
        "forward without head": (1, 0),
        "NormXLogit": (1, 0),
        "gradient x input": (1, 32),
    }
    whole = 128 * 50304 * 4 / 1e6  # every logit of every position
    assert passes["full logits"][2] > 0.9 * whole
    assert passes["NormXLogit"][2] < 0.5 * whole
    assert lines[5].startswith("NormXLogit costs ")


def test_a_spread_is_the_quartiles():
    assert middle([1.0, 2.0, 3.0, 4.0, 9.0], 1) == "3.0 (2.0 to 4.0)"
