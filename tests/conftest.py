import pytest

from tests.threads import one_thread

SMALL = (
    "tests.scores",
    "tests.models",
    "tests.attribution",
    "tests.importance",
    "tests.tracking",
    "tests.runs",
    "tests.audit",
    "tests.report",
    "tests.cli",
)


collect_ignore = ["golden/make_quantised.py"]  # imports packages that making that file needs


@pytest.fixture(autouse=True)
def one_thread_and_seed(request):
    """Matrices this small wait for a second thread longer than they compute."""
    if not request.module.__name__.startswith(SMALL):
        yield
        return
    import torch

    with one_thread():
        torch.manual_seed(0)
        yield
