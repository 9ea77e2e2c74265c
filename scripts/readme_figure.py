"""The figure at the top of the README, from a finished `make demo`.

    python scripts/readme_figure.py [STUDY]

draws STUDY (runs/demo by default) into docs/figures and prints what the README may say of it.
"""

import sys
from pathlib import Path

from dynamics.report.figures import plot
from dynamics.runs.findings import findings
from dynamics.runs.run import Run

FIGURES = Path(__file__).parent.parent / "docs" / "figures"


def main() -> None:
    """Draw and print."""
    run = Run(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    (drawn,) = plot([run], FIGURES, figures=["headline"], formats=["png"])
    print(drawn)
    drawn.with_suffix(".txt").unlink()  # the README has words of its own
    print("\n".join(findings(run)))


if __name__ == "__main__":
    main()
