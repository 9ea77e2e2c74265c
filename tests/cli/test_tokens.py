import json

import numpy as np
import pytest

from dynamics.cli.tokens import _visible
from dynamics.config import TrackingSettings
from tests.tracking.measured import write_importances
from tests.tracking.synthetic import grow, make_counts, tracked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    counts = make_counts()
    counts.table.loc[counts.table["kind"] == "word_start", "token"] += "\n"
    bare = tracked(tmp_path_factory.mktemp("cli"), counts=counts, series=grow(counts))
    return write_importances(bare, importance, (0, 32)).path


def importance(step):
    values = np.arange(200.0) * step
    return {
        "token_id": np.arange(200),
        "contexts": np.full(200, 4),
        "occlusion": values,
        "occlusion_half_1": values - 0.5,
        "occlusion_half_2": values + 0.5,
    }


def test_the_table_tells_what_was_compared_and_shows_every_token(dynamics, run):
    status, out, _ = dynamics("tokens", run, "--gained", "norm", "--between", 2, 32, "--top", 5)
    assert status == 0
    first, header, *rows = out.splitlines()
    assert first.startswith("rho of input_embedding_norm with log_frequency: ")
    assert " at step 2, " in first
    assert first.endswith(" tokens)")
    assert header.split("  ")[0] == "token"
    for name in ("id", "count", "step 2", "step 32", "log change", "rho change"):
        assert f"  {name}" in header
    assert len(rows) == 5
    assert any(row.startswith("␣") and "\\n" in row for row in rows)


def test_paths_of_rows_stand_beside_their_change(dynamics, tmp_path):
    run = tracked(tmp_path, settings=TrackingSettings(paths=True))
    about = ["tokens", run.path, "--gained", "norm", "--between", 2, 32]
    about += ["--measure", "output_embedding_norm"]
    _, out, _ = dynamics(*about, "--top", 5)
    _, header, *rows = out.splitlines()
    for name in ("log change", "time to half", "ray share", "ray share of walk", "rho change"):
        assert f"  {name}" in header
    assert len(rows) == 5
    _, out, _ = dynamics(*about, "--json")
    for token in json.loads(out)["tokens"]:
        for name in ("time_to_half", "ray_share", "ray_share_of_walk"):
            assert token[name] == pytest.approx(run.tokens[f"{name}_output"][token["token_id"]])


def test_json_has_the_numbers(dynamics, run):
    about = ["tokens", run, "--gained", "importance", "--between", 0, 32, "--top", 3]
    for option in (["--json"], ["--format", "json"]):
        status, out, _ = dynamics(*about, *option)
        assert status == 0
        found = json.loads(out)
        assert (found["of"], found["against"]) == ("occlusion", "log_frequency")
        assert found["steps"] == [0, 32]
        assert found["rho"][0] is None  # every importance is 0 at step 0
        assert -1 < found["rho"][1] < 1
        changes = [token["change"] for token in found["tokens"]]
        assert changes == sorted(changes, reverse=True)
        assert changes[0] == 32 * found["tokens"][0]["token_id"]
        assert {token["error"] for token in found["tokens"]} == {0.0}


def test_lost_lists_the_other_end(dynamics, run):
    about = ["tokens", run, "--gained", "importance", "--between", 0, 32, "--top", 3]
    _, gained, _ = dynamics(*about)
    _, lost, _ = dynamics(*about, "--lost")
    assert "error" in gained.splitlines()[1]
    assert not set(gained.splitlines()[2:]) & set(lost.splitlines()[2:])


def test_a_step_that_is_not_there_is_told_in_one_line(fails, run):
    told = fails("tokens", run, "--gained", "norm", "--between", 100, 1000)
    assert told == f"{run} has no step 100; the nearest are 0, 2, 8, 32"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--between", 0, 32], "Missing option '--gained'"),
        (["--gained", "norm"], "Missing option '--between'"),
        (["--gained", "weight", "--between", 0, 32], "'weight' is not one of 'norm', 'importance'"),
        (["--gained", "norm", "--between", 0], "requires 2 arguments"),
    ],
)
def test_bad_usage_is_told(dynamics, run, arguments, told):
    status, _, err = dynamics("tokens", run, *arguments)
    assert status == 2
    assert told in err


def test_what_cannot_be_seen_is_shown():
    assert _visible("  a \t\x1b[0m") == "␣␣a␣\\t\\x1b[0m"
