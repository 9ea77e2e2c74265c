"""Public checkpoint series as data: what is published, where, under which names, and its defects.

The data is `public_series.yaml` beside this module. Nothing here asks a hub for anything.
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
    is_chosen,
    one_per_step,
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
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenStream(_Entry):
    """The tokens of a training, published in the order in which they were consumed.

    Attributes:
        dataset: Data set on the hub, whose files are one flat array.
        dtype: Type of a token id.
        row: Token ids in a row: inputs and one more, for the last target.
        rows_per_step: Rows that a training step consumes.
        same_order: Whether this series consumed them in this order; if not, counts of the whole
            hold, exposure up to a step does not.
    """

    dataset: str
    dtype: Literal["uint16", "uint32"]
    row: int
    rows_per_step: int
    same_order: bool = True


class Corpus(_Entry):
    """What a series was trained on.

    Attributes:
        name: Name of the corpus.
        where: Where its text, tokens or counts are.
        stream: The tokens in the order of training, where they are published.
    """

    name: str
    where: str
    stream: TokenStream | None = None


class Defect(_Entry):
    """Something known about a series that a reader of its numbers must know.

    Attributes:
        what: What is the matter.
        kind: `explained` is what looks like a defect and is none.
        steps: Which steps, as a rule for `expand_steps`; None when not known or all of them.
        tensors: Roles of the tensors concerned; empty when all are.
        repaired: Whether it is reported to have been put right since.
        link: Issue, as `owner/repository#number`.
        source: Evidence mark, and what is left open.
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
    """One training whose checkpoints are published.

    Attributes:
        name: Name in the catalog: the repository's in lower case, without the organisation.
        family: Family it belongs to.
        aliases: Shorter names.
        where: What a checkpoint is in its repository, or a repository of its own.
        repositories: Repository ids; with `where: repository` one for each checkpoint, or
            a pattern with `*`.
        branch: The branch whose commits are the checkpoints, with `where: commit`.
        revisions: Regular expressions for `parse_name`.
        default_stages: Stages whose steps are the series; every stage when None. Names without a
            stage always belong to it.
        default_seed: Seed meant when none is chosen.
        step_unit: What a step in a name stands for.
        tokens_per_step: Tokens a step sees; by the step from which they hold, where they change.
        first_tokens: Tokens seen at step 0.
        expected: Rule for the steps to be expected, see `expand_steps`.
        expected_count: How many checkpoints are said to exist.
        last: Last step.
        main: Step that the branch main is at, None when it is none of the series.
        warmup_from_zero: Whether the first update has learning rate 0, so that steps 0 and 1 agree.
        architecture: Family of tensor names, see `architectures.FAMILIES`.
        dtype: Type on disk, None when not known.
        tied: Whether input and output embedding are one matrix.
        rows: Rows of the embeddings.
        tokenizer_size: Entries of the tokenizer.
        hidden_size: Width D.
        parameters: Parameters of the full model.
        format: File formats.
        corpus: What it was trained on.
        licence: Licence of the weights.
        evidence: Marks, as told at the head of the data.
        unverified: What in this entry is not checked against a primary source.
        notes: What else to know.
        readable: Whether its tensors can be read one by one.
        unreadable_because: Why not.
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
        """Steps there should be, ascending; empty when no rule is known."""
        if self.expected is None:
            return ()
        steps = expand_steps(self.expected, self.last)
        return steps if self.main is None else tuple(sorted({*steps, self.main}))

    @property
    def count(self) -> int | None:
        """How many checkpoints there should be, None when not known."""
        return self.expected_count or len(self.expected_steps) or None

    def tokens_seen(self, step: int) -> int | None:
        """Tokens trained on up to a step, None when it is not known how many a step sees."""
        if self.tokens_per_step is None:
            return None
        return tokens_at(step, self.tokens_per_step, self.first_tokens)

    def parse(
        self, names: Iterable[str], stage: str | None = None, seed: str | None = None
    ) -> dict[int, RevisionName]:
        """The checkpoints among names that exist, by ascending step; other names are ignored.

        Args:
            names: Branches, tags, titles of commits, or ids of repositories, whichever `where`
                says. A name given twice counts once.
            stage: Take names of this stage. By default those without a stage and those of
                `default_stages`. A stage outside of these counts its own steps, so that tokens
                seen are not known.
            seed: Take names of this seed; by default those without one and `default_seed`.

        Raises:
            StepError: Two names are of one step.
        """
        default_seeds = None if self.default_seed is None else (self.default_seed,)
        existing = dict.fromkeys(names)
        found: list[RevisionName] = []
        for name in existing:
            said = parse_name(name, self.revisions, self.step_unit)
            if said is None or not is_chosen(said.seed, seed, default_seeds):
                continue
            if is_chosen(said.stage, None, self.default_stages):
                said = with_tokens(said, self.tokens_per_step, self.first_tokens)
            elif said.stage == stage:
                said = RevisionName(name, said.step, stage=said.stage, seed=said.seed)
            if is_chosen(said.stage, stage, self.default_stages):
                found.append(said)
        steps = one_per_step(found)
        if stage is None and seed is None and "main" in existing and self.main is not None:
            steps.setdefault(
                self.main, RevisionName("main", self.main, self.tokens_seen(self.main))
            )
        return steps


@cache
def catalog() -> Mapping[str, PublicSeries]:
    """The public series by name, read once from the data of the package."""
    text = (
        files("dynamics.checkpoints.catalog")
        .joinpath("public_series.yaml")
        .read_text(encoding="utf-8")
    )
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    series = [
        PublicSeries(**entry) for family in data["families"] for entry in expand_family(family)
    ]
    assert len({each.name for each in series}) == len(series), "names of the catalog are unique"
    return MappingProxyType({each.name: each for each in series})


def families() -> list[str]:
    """Names of the families, in the order of the catalog."""
    return list(dict.fromkeys(series.family for series in catalog().values()))


def find(name: str) -> PublicSeries:
    """The public series of a name, in any case, of an alias or of a full repository id.

    Raises:
        CheckpointError: There is none.

    Example:
        >>> find("EleutherAI/pythia-160m").name
        'pythia-160m'
    """
    wanted = name.lower()
    known = catalog()
    if wanted in known:
        return known[wanted]
    for series in known.values():
        repositories = (repository.lower() for repository in series.repositories)
        if wanted in series.aliases or any(fnmatchcase(wanted, each) for each in repositories):
            return series
    names = [*known, *(alias for series in known.values() for alias in series.aliases)]
    close = difflib.get_close_matches(wanted.rpartition("/")[2], names, n=1)
    hint = did_you_mean(close[0], close) if close else f"there are {len(known)} of them."
    raise CheckpointError(f"{name!r} is no public series; {hint} `dynamics series list` shows them")
