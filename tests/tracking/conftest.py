from tests.tracked import counts, run, run_without_counts, seed, series, trained  # noqa: F401 pytest finds them here
