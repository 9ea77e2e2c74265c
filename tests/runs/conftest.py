from tests.tracked import counts, run, run_without_counts, seed, series, trained  # noqa: F401
