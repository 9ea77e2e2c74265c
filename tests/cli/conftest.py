import pytest

from dynamics import __main__ as entry


@pytest.fixture
def dynamics(capsys):
    """Run a command line in this process: exit status, standard output, standard error."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            entry.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def fails(dynamics):
    """Run what must fail: one line on standard error, status 2; the line without its beginning."""

    def run(*arguments):
        status, out, err = dynamics(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("dynamics: ")
        assert err.count("\n") == 1
        return err.removeprefix("dynamics: ").strip()

    return run
