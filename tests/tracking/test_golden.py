import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dynamics.corpus.counts import Counts, CountsInfo
from dynamics.tracking.track import track
from tests.golden.make_trend import compute, make_series
from tests.tracking.synthetic import GAIN, INPUT, OUTPUT, write_series

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/trend.json").read_text())


def test_the_golden_file_is_what_its_script_makes():
    assert json.loads(json.dumps(compute(*make_series()))) == GOLDEN


def test_a_tracked_series_gives_the_golden_norms_and_correlations(tmp_path):
    counts, series = make_series()
    table = pd.DataFrame({"token_id": np.arange(len(counts)), "token": "a", "count": counts})
    table["document_count"] = pd.Series(counts, dtype="Int64")
    table["first_seen"], table["kind"] = 0, "continuation"
    run = track(
        write_series(
            tmp_path / "series",
            {
                step: {INPUT: e, OUTPUT: u, GAIN: gain, GAIN.replace("weight", "bias"): 0 * gain}
                for step, (e, u, gain) in series.items()
            },
        ),
        tmp_path / "run",
        counts=Counts(table, CountsInfo("a" * 64, "c" * 64, int(counts.sum()), len(counts))),
    )
    assert run.steps == [int(step) for step in GOLDEN]
    for step, expected in GOLDEN.items():
        measured = run.measures(int(step))
        for name, golden in expected.items():
            values = measured[name].to_numpy(np.float64)
            np.testing.assert_allclose(values[:5], golden["first_five"], rtol=1e-6)
            assert values.sum() == pytest.approx(golden["sum"], rel=1e-6)
            found = run.trend(name).set_index("step")["value"][int(step)]
            if golden["spearman"] is None:
                assert np.isnan(found)
            else:
                assert found == pytest.approx(golden["spearman"], abs=1e-6)
