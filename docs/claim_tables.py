"""Tables on the page of claims: the current list with its error rates, and a superseded list."""

import json
from pathlib import Path
from typing import Any

import cog

from dynamics.settings_files import read_yaml
from dynamics.verdicts.claims import read_claims, shipped_claims


def show_claims() -> None:
    """Write a table of the current claims into the page: range, arms and how chance treats them."""
    file, results = read_claims(), _error_rates()
    contents, rates = file.contents, {rate["name"]: rate for rate in results["claims"]}
    cog.outl(
        f"`{file.name}`, stated on {contents.stated}, SHA-256 `{file.sha256}`. {contents.source} "
        f"Vocabulary rule `{contents.rule}`.\n"
    )
    cog.outl(
        "| claim | earlier runs | claimed range | arms | sd over seeds | confirmed at lower end "
        "| upper end | middle |\n|---|---|---|---|---|---|---|---|"
    )
    for claim in contents.claims:
        rate = rates.get(claim.name)
        shown = ["–"] * 4
        if rate is not None:
            ends = (f"{rate[key]:.1%}" for key in ("at_lower_end", "at_upper_end", "at_middle"))
            shown = [f"{rate['seed_sd']:g}", *ends]
        arms = ", ".join(f"{key}={json.dumps(value)}" for key, value in claim.arms.items())
        cells = (claim.name, claim.expected, f"{claim.above:g} to {claim.below:g}", arms or "all")
        cog.outl(f"| {' | '.join(map(_cell, (*cells, *shown)))} |")


def show_list_error_rates() -> None:
    """Write a sentence into the page: how often chance confirms at least one claim of the list."""
    results = _error_rates()
    independent, correlated = results["any_of_list"].values()
    (_, shared) = results["any_of_list"]
    cog.outl(
        f"Were all {len(results['claims'])} with a known spread just false, chance would confirm "
        f"at least one in {independent:.0%} of studies where claims are independent, and in "
        f"{correlated:.0%} "
        f"where their noise correlates by {shared} ({results['seeds']} seeds, "
        f"{results['repetitions']:,} simulated studies)."
    )


def _error_rates() -> dict[str, Any]:
    """Return docs/claim-error-rates.json, which has to be of the current claims."""
    results = json.loads((Path(__file__).parent / "claim-error-rates.json").read_text("utf-8"))
    if results["sha256"] != read_claims().sha256:
        cog.error("docs/claim-error-rates.json is of other claims; run scripts.claim_error_rates")
    return results


def show_past_claims(name: str) -> None:
    """Write a table of a superseded list of claims into the page, with what became of each."""
    cog.outl(
        "| claim | pilots | range | tiny study | now | reason | restated as |\n"
        "|---|---|---|---|---|---|---|"
    )
    for claim in read_yaml(shipped_claims()[name])["claims"]:
        ends = [f"{end} {claim[end]:g}" for end in ("above", "below") if end in claim]
        cells = (
            *(claim["name"], claim["expected"], ", ".join(ends), claim["study"], claim["now"]),
            *(claim["reason"], " ".join(claim.get("restated_as", ["–"]))),
        )
        cog.outl(f"| {' | '.join(map(_cell, cells))} |")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
