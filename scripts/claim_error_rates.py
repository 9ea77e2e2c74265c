"""Write docs/claim-error-rates.json: how often chance confirms the claims of the current list.

    python -m scripts.claim_error_rates

simulates five seeds around a true value at each end and in the middle of every claimed range, with
the spread over seeds that the list states (`seed_sd`), and judges them as runs are judged. The
table in docs/claims.md is generated from the file; run it again when the current list is another.
"""

from pathlib import Path
from typing import Any

import numpy as np

from dynamics.files import write_json
from dynamics.statistics.seeds import FEWEST_SEEDS
from dynamics.verdicts.claims import ClaimsFile, read_claims
from dynamics.verdicts.error_rates import SimulatedClaim, simulate_error_rates

RESULTS = Path(__file__).parents[1] / "docs" / "claim-error-rates.json"
REPETITIONS = 100_000
SHARED = (0.0, 0.5)
"""Correlations of the claims' noise in one seed, for the rate of the list."""


def simulate(file: ClaimsFile, repetitions: int) -> dict[str, Any]:
    """Simulate every claim whose spread over seeds is known.

    Returns:
        The contents of the results file.
    """
    simulated = [
        SimulatedClaim(claim, claim.seed_sd)
        for claim in file.contents.claims
        if claim.seed_sd is not None
    ]
    rates = {
        shared: simulate_error_rates(
            simulated, shared=shared, repetitions=repetitions, random=np.random.default_rng(0)
        )
        for shared in SHARED
    }
    alone = rates[0.0]
    return {
        "file": file.name,
        "sha256": file.sha256,
        "seeds": FEWEST_SEEDS,
        "repetitions": repetitions,
        "claims": [
            {
                "name": case.claim.name,
                "seed_sd": case.seed_sd,
                "at_lower_end": lower,
                "at_upper_end": upper,
                "at_middle": middle,
            }
            for case, lower, upper, middle in zip(
                *(simulated, alone.at_lower_end, alone.at_upper_end, alone.at_middle), strict=True
            )
        ],
        "any_of_list": {str(shared): found.any_of_list for shared, found in rates.items()},
    }


if __name__ == "__main__":
    write_json(RESULTS, simulate(read_claims(), REPETITIONS))
