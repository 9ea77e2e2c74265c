"""Catalog of public checkpoint series: repositories, names of checkpoints, shapes and defects.

The data is in `public_series.yaml` beside this module; no request is sent to a hub.
"""

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from dynamics.checkpoints.catalog.revision_names import (
    RevisionName,
    expand_steps,
    index_by_step,
    is_selected,
    parse_name,
    tokens_at,
    with_tokens,
)
from dynamics.checkpoints.catalog.series_templates import expand_family
from dynamics.errors import CheckpointError, did_you_mean

Where = Literal["branch", "tag", "commit", "repository", "directory"]
DefectKind = Literal[
    "repeated", "missing", "wrong_shard", "discontinuous", "wrong_run", "explained"
]


class _Entry(BaseModel):
    """An entry of the catalog; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PublicStream(_Entry):
    """The tokens of a training, published in the order in which they were consumed.

    Attributes:
        dataset: Data set on the hub, whose files are one flat array.
        dtype: Type of a token id.
        row: Token ids in a row: inputs and one more, for the last target.
        rows_per_step: Rows that a training step consumes.
        same_order: Whether this series consumed them in this order; if not, counts over the whole
            stream hold, but exposure up to a step does not.
    """

    dataset: str
    dtype: Literal["uint16", "uint32"]
    row: int
    rows_per_step: int
    same_order: bool = True


class Corpus(_Entry):
    """Training corpus of a series.

    Attributes:
        name: Name of the corpus.
        where: Address of its text, tokens or counts.
        stream: The tokens in the order of training, where they are published.
    """

    name: str
    where: str
    stream: PublicStream | None = None


class Defect(_Entry):
    """Known defect of a series that affects the numbers measured on it.

    Attributes:
        what: Description of the defect.
        kind: Kind of defect; `explained` for a peculiarity that is none.
        steps: Steps concerned, as a rule for `expand_steps`; None when not known or all of them.
        tensors: Roles of the tensors concerned; empty when all are.
        repaired: Whether a repair has been reported.
        link: Issue, as `owner/repository#number`.
        source: Evidence mark, and open questions.
    """

    what: str
    kind: DefectKind
    steps: str | None = None
    tensors: tuple[str, ...] = ()
    repaired: bool = False
    link: str | None = None
    source: str

    @property
    def url(self) -> str | None:
        """Address of the issue."""
        return self.link and f"https://github.com/{self.link.replace('#', '/issues/')}"


class PublicSeries(_Entry):
    """Training run with published checkpoints.

    Attributes:
        name: Name in the catalog: the repository's in lower case, without the organisation.
        family: Family it belongs to.
        aliases: Shorter names.
        where: Form of a checkpoint: a branch, tag, commit or directory, or a repository of its own.
        repositories: Repository ids; with `where: repository` one for each checkpoint, or
            a pattern with `*`.
        branch: The branch whose commits are the checkpoints, with `where: commit`.
        revisions: Regular expressions for `parse_name`.
        default_stages: Stages whose steps are the series; every stage when None. Names without a
            stage always belong to it.
        default_seed: Seed used when none is requested.
        step_unit: Training steps per step in a name.
        tokens_per_step: Tokens per step; where they change, by the step from which they hold.
        first_tokens: Tokens seen at step 0.
        expected: Rule for the expected steps, see `expand_steps`.
        expected_count: Published number of checkpoints.
        last: Last step.
        main: Step that the branch main holds, None when it is no step of the series.
        warmup_from_zero: Whether the first update has learning rate 0, so that steps 0 and 1 agree.
        architecture: Family of tensor names, see `architectures.FAMILIES`.
        dtype: Type on disk, None when not known.
        tied: Whether input and output embedding are one matrix.
        rows: Rows of the embeddings.
        tokenizer_size: Entries of the tokenizer.
        hidden_size: Width D.
        parameters: Parameters of the full model.
        format: File formats.
        corpus: Training corpus.
        licence: Licence of the weights.
        evidence: Evidence marks, explained at the head of the data.
        unverified: Fields of this entry that were not checked against a primary source.
        notes: Further remarks.
        readable: Whether its tensors can be read one by one.
        unreadable_because: Reason why its tensors cannot be read.
        defects: Known defects.
    """

    name: str
    family: str
    aliases: tuple[str, ...] = ()
    where: Where
    repositories: tuple[str, ...]
    branch: str | None = None
    revisions: tuple[str, ...]
    default_stages: tuple[str, ...] | None = None
    default_seed: str | None = None
    step_unit: int = 1
    tokens_per_step: int | dict[int, int] | None = None
    first_tokens: int = 0
    expected: str | None = None
    expected_count: int | None = None
    last: int | None = None
    main: int | None = None
    warmup_from_zero: bool = False
    architecture: str | None = None
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    tied: bool | None = None
    rows: int | None = None
    tokenizer_size: int | None = None
    hidden_size: int | None = None
    parameters: int | None = None
    format: str
    corpus: Corpus
    licence: str
    evidence: str
    unverified: tuple[str, ...] = ()
    notes: str | None = None
    readable: bool = True
    unreadable_because: str | None = None
    defects: tuple[Defect, ...] = ()

    @cached_property
    def expected_steps(self) -> tuple[int, ...]:
        """Expected steps, ascending; empty when no rule is known."""
        if self.expected is None:
            return ()
        steps = expand_steps(self.expected, self.last)
        return steps if self.main is None else tuple(sorted({*steps, self.main}))

    @property
    def count(self) -> int | None:
        """Expected number of checkpoints, None when not known."""
        return self.expected_count or len(self.expected_steps) or None

    def tokens_seen(self, step: int) -> int | None:
        """Return the tokens seen up to a step, None when the tokens per step are not known."""
        if self.tokens_per_step is None:
            return None
        return tokens_at(step, self.tokens_per_step, self.first_tokens)

    def parse(
        self, names: Iterable[str], stage: str | None = None, seed: str | None = None
    ) -> dict[int, RevisionName]:
        """Return the names that are checkpoints of the series, by ascending step.

        Args:
            names: Existing branches, tags, titles of commits or ids of repositories, depending on
                `where`. Duplicates count once; names of other things are ignored.
            stage: Stage to select. By default names without a stage and those of
                `default_stages`. Any other stage counts its own steps, so that tokens seen are
                not known.
            seed: Seed to select; by default names without one and those of `default_seed`.

        Raises:
            StepError: Two names are of one step.
        """
        default_seeds = None if self.default_seed is None else (self.default_seed,)
        existing = dict.fromkeys(names)
        selected: list[RevisionName] = []
        for name in existing:
            parsed = parse_name(name, self.revisions, self.step_unit)
            if parsed is None or not is_selected(parsed.seed, seed, default_seeds):
                continue
            if is_selected(parsed.stage, None, self.default_stages):
                parsed = with_tokens(parsed, self.tokens_per_step, self.first_tokens)
            elif parsed.stage == stage:
                parsed = RevisionName(name, parsed.step, stage=parsed.stage, seed=parsed.seed)
            if is_selected(parsed.stage, stage, self.default_stages):
                selected.append(parsed)
        steps = index_by_step(selected)
        if stage is None and seed is None and "main" in existing and self.main is not None:
            steps.setdefault(
                self.main, RevisionName("main", self.main, self.tokens_seen(self.main))
            )
        return steps


@cache
def catalog() -> Mapping[str, PublicSeries]:
    """Return the public series by name, read once from the data of the package."""
    text = files("dynamics.checkpoints.catalog").joinpath("public_series.yaml").read_text("utf-8")
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    series = [
        PublicSeries(**entry) for family in data["families"] for entry in expand_family(family)
    ]
    assert len({entry.name for entry in series}) == len(series), "names of the catalog are unique"
    return MappingProxyType({entry.name: entry for entry in series})


def families() -> list[str]:
    """Return the names of the families, in the order of the catalog."""
    return list(dict.fromkeys(series.family for series in catalog().values()))


def find(name: str) -> PublicSeries:
    """Find a public series by its name in any case, an alias, or a full repository id.

    Raises:
        CheckpointError: There is no such series.

    Example:
        >>> find("EleutherAI/pythia-160m").name
        'pythia-160m'
    """
    lower = name.lower()
    entries = catalog()
    if lower in entries:
        return entries[lower]
    for series in entries.values():
        repositories = (repository.lower() for repository in series.repositories)
        if lower in series.aliases or any(fnmatchcase(lower, pattern) for pattern in repositories):
            return series
    names = [*entries, *(alias for series in entries.values() for alias in series.aliases)]
    close = difflib.get_close_matches(lower.rpartition("/")[2], names, n=1)
    hint = did_you_mean(close[0], close) if close else f"there are {len(entries)} of them."
    raise CheckpointError(f"{name!r} is no public series; {hint} `dynamics series list` shows them")
