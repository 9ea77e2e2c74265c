"""Settings of a study, and of what is measured of each checkpoint: one model for every group."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dynamics.configurations import configuration_file
from dynamics.former_names import warn_of
from dynamics.measure_groups import DEFAULT_GROUPS, MeasureGroups
from dynamics.settings_files import (
    Settings,
    StepExpression,
    parse_override,
    read_yaml,
    set_key,
    validate,
)


class TwinSettings(Settings):
    """Tokens that get duplicate ids in a random share of their occurrences.

    Attributes:
        tokens: Number of tokens with duplicates.
        share: Probability that an occurrence becomes the duplicate; a list gives each token one
            duplicate per entry, as `[0.5, 0.25, 0.125, 0.03125]`. Together less than 1.
        drawn: `per_seed` draws the tokens by the seed, one from each of equally many ranks of
            frequency; `fixed` takes the same tokens for every seed.
        initial_rows: `copied` starts the rows of duplicates as copies of the token's; `independent`
            draws them like any row.
    """

    tokens: int = Field(default=96, gt=0)
    share: float | list[float] = 0.125
    drawn: Literal["per_seed", "fixed"] = "per_seed"
    initial_rows: Literal["copied", "independent"] = "copied"

    @field_validator("share", mode="plain")
    @classmethod
    def _leaves_a_rest(cls, share: Any) -> float | list[float]:
        """Accept a number or a list of numbers above 0 that sum to less than 1."""
        shares = share if isinstance(share, list) else [share]
        are_positive = all(isinstance(value, float) and value > 0 for value in shares)
        if not shares or not are_positive or not sum(shares) < 1:
            raise ValueError("should be a number above 0, or a list of such, together less than 1")
        return share

    @property
    def shares(self) -> tuple[float, ...]:
        """Probability of each duplicate of a token, in the order of their ids."""
        return tuple(self.share) if isinstance(self.share, list) else (self.share,)


class CorpusSettings(Settings):
    """Source of the text, and its preparation.

    Attributes:
        source: `python-docs`, a file, folder or pattern of files of text, or the name of a data set
            on the hub (`name` or `name:configuration`).
        text_column: Column that holds the text, for sources with columns.
        split: Split of a data set, a folder or a pattern of files, for sources with splits.
        format: Format of the files, instead of guessing it: `text`, `json`, `csv`, `parquet` or
            `arrow`.
        separator: Text between documents inside a file or row, such as `<|endoftext|>` in
            TinyStories; documents are split there.
        max_documents: Most documents to read.
        max_tokens: Most tokens to keep.
        held_out_rows: Rows of the token stream that are not trained on.
        twins: Tokens with a duplicate id, whose frequency is thereby random; none by default.
        placebo_rows: Rows added to the model's vocabulary for ids that never occur.
        information_window: Window of the information gain to compute for each token, in tokens to
            each side; None computes none.
    """

    source: str = "python-docs"
    text_column: str = "text"
    split: str = "train"
    format: Literal["text", "json", "csv", "parquet", "arrow"] | None = Field(
        default=None,
        exclude_if=lambda name: name is None,  # so that older training folders compare as equal
    )
    separator: str | None = Field(default=None, min_length=1)
    max_documents: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    held_out_rows: int = Field(default=0, ge=0)
    twins: TwinSettings | None = None
    placebo_rows: int = Field(default=0, ge=0)
    information_window: int | None = Field(default=None, gt=0)


class TokenizerSettings(Settings):
    """A byte-level BPE trained on the corpus, or an existing tokenizer.

    Attributes:
        vocab_size: Entries of the tokenizer to train, special tokens included.
        path: Folder, `tokenizer.json` or hub name of an existing tokenizer to use instead.
        allow_loss: Whether more than 1 % of the text may be lost in tokenizing.
    """

    vocab_size: int = Field(default=4096, ge=258)
    path: str | None = None
    allow_loss: bool = False


class ModelSettings(Settings):
    """Architecture and shape of the model to train.

    Attributes:
        architecture: `gpt-neox`, `gpt2` and `llama` predict the next token, `bert` masked tokens.
        hidden_size: Width D.
        num_layers: Number of layers L.
        num_heads: Attention heads per layer.
        intermediate_size: Width of the feed-forward layers; 4 D by default.
        tied: Whether input and output embedding are one matrix.
        dropout: Dropout probability, everywhere in the model.
        initializer_range: Standard deviation of the initial weights.
    """

    architecture: Literal["gpt-neox", "gpt2", "llama", "bert"] = "gpt-neox"
    hidden_size: int = Field(default=128, gt=0)
    num_layers: int = Field(default=4, gt=0)
    num_heads: int = Field(default=4, gt=0)
    intermediate_size: int | None = Field(default=None, gt=0)
    tied: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initializer_range: float = Field(default=0.02, gt=0)

    @property
    def masked(self) -> bool:
        """True if the model predicts masked tokens instead of the next one."""
        return self.architecture == "bert"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelSettings":
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        return self


class TrainingSettings(Settings):
    """Batches, optimizer and schedule of the training.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Rows per step, over all processes and micro-batches.
        device_batch_size: Rows per micro-batch of one device; its whole share of a step by default.
        sequence_length: Positions T of a row.
        max_passes: Most passes over the corpus; a training that needs more is an error.
        optimizer: `adamw` or `sgd`.
        learning_rate: Peak of the schedule.
        schedule: Shape after warm-up: `cosine`, `linear` or `constant`.
        final_learning_rate_ratio: Last learning rate as a share of the peak.
        warmup_steps: Steps of linear warm-up; the first step has learning_rate / warmup_steps.
        weight_decay: Weight decay of matrices including embeddings, not of biases and norms;
            decoupled in AdamW, added to the gradient in SGD.
        beta1: AdamW's decay of the first moment.
        beta2: AdamW's decay of the second moment.
        epsilon: AdamW's epsilon.
        momentum: SGD's momentum.
        gradient_clip: Largest L2 norm of the gradient; 0 for no clipping.
        masked_share: Share of positions that a masked model predicts.
        device: `cpu`, `cuda`, or `auto` for cuda where there is one.
        precision: `float32`, or `bfloat16` for automatic mixed precision.
        threads: CPU threads; torch's default when None.
    """

    steps: int = Field(gt=0)
    batch_size: int = Field(default=16, gt=0)
    device_batch_size: int | None = Field(default=None, gt=0)
    sequence_length: int = Field(default=128, gt=1)
    max_passes: float = Field(default=1.0, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    gradient_clip: float = Field(default=1.0, ge=0)
    masked_share: float = Field(default=0.15, gt=0, lt=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainingSettings":
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is more than the {self.steps} steps"
            )
        return self


class CheckpointSettings(Settings):
    """Steps at which checkpoints are saved, in the step language.

    Attributes:
        steps: Steps at which whole models are saved; always includes step 0 and the last.
        embeddings: Further steps, at which only embeddings, output bias and final norm are saved.
        state_every: Steps between saved states for resuming; a tenth of the training by default.
    """

    steps: StepExpression = "log2(512)+every(1000)"
    embeddings: StepExpression | None = None
    state_every: int | None = Field(default=None, gt=0)


Words = Literal["space", "bare", "either"]
"""Token that stands for a word in a list of words: `space` is the one that begins a word, with its
leading space where the vocabulary writes one; `bare` the one without; `either` the first of these
that there is."""


class ProbeSettings(Settings):
    """Text that the models are run on, and further tokens to probe in it.

    Attributes:
        text: Text, or token stream, to take contexts and held-out rows from; the training stream of
            the series and its held-out rows by default.
        text_column: Column that holds the text, for texts with columns.
        split: Split of a data set, a folder or a pattern of files, or `all`; `train` by default,
            where there are splits.
        format: Format of the files, instead of guessing it: `text`, `json`, `csv`, `parquet` or
            `arrow`.
        dtype: Type of the ids, if the text is a file of ids; by its header, else uint16, or uint32
            for more than 65,536 entries, by default.
        separator: Text between documents inside a file or row, such as `<|endoftext|>`.
        tokens: Ids of tokens that are probed in addition to the sampled ones.
        strata: Strata of frequency that tokens are sampled from, each of equally many tokens of the
            vocabulary.
        seed: Seed of the sampled tokens, contexts and held-out rows.
    """

    text: str | None = None
    text_column: str = "text"
    split: str | None = None
    format: str | None = None
    dtype: str | None = None
    separator: str | None = None
    tokens: list[int] = Field(default_factory=list)
    strata: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)

    def unused(self, applicable: Iterable[str] = ()) -> list[str]:
        """Return the keys that say how a text is read, are set, and are not applicable to it."""
        reading_keys = ("text_column", "split", "format", "dtype", "separator")
        defaults = ProbeSettings.model_fields
        return [
            f"probe.{name}"
            for name in reading_keys
            if name not in applicable and getattr(self, name) != defaults[name].default
        ]


class StreamSettings(Settings):
    """Token stream that a series was trained on, to count exact exposure.

    Attributes:
        file: File of token ids in training order; the stream of the training folder by default, if
            `dynamics train` made the series.
        sequence_length: Sequence length T of the file (rows of T + 1 ids); not needed for streams
            that `dynamics` wrote.
        batch_size: Rows of the file that one training step consumes.
        dtype: Type of the ids in the file; by its header, else uint16, by default.
    """

    file: str | None = None
    sequence_length: int | None = None
    batch_size: int | None = Field(default=None, ge=1)
    dtype: str | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> "StreamSettings":
        if self.file is None and (self.sequence_length or self.batch_size or self.dtype):
            raise ValueError(
                "sequence_length, batch_size and dtype describe a token stream; give it with "
                "stream.file"
            )
        if self.file is not None and self.batch_size is None:
            raise ValueError(
                f"the batch size of {self.file} is not known; give stream.batch_size, the rows of "
                "one step"
            )
        return self


EVERYTHING = {"measures": "all", "every_row": True}
"""Settings that the former `all: true` stands for."""


class TrackingSettings(Settings):
    """Settings of what is measured of each checkpoint, by `dynamics track` or in a study.

    Attributes:
        measures: Groups of measures of the weights: `norms` (always), `distances`, `ranks`,
            `readouts`, `spectrum`; or `all`.
        every_row: Whether every row enters effective ranks and read-outs, not a sample of 8,192.
        paths: Whether to follow each row over all steps, in a second pass over the series.
        covariates: Tables with a row per token, whose columns of numbers every measure and every
            importance is correlated with.
        words: Token that stands for a word in these tables: `space`, the one that begins a word,
            with its leading space; `bare`, the one without; `either`, the first of these that there
            is.
        tokenizer: Folder, `tokenizer.json` or hub name of the tokenizer, for checkpoints without.
        importance: Names of importances, or `all`; none by default.
        surgery: Whether to measure the held-out loss after surgery on the norms.
        agreement: Whether to compare attribution methods with occlusion within inputs.
        live_steps: Steps at which the model is run, among the tracked ones, in the step language.
        probe_tokens_per_stratum: Tokens to probe in each of 10 strata of frequency.
        contexts: Contexts per probed token.
        context_length: Tokens per context.
        device: Device to measure the weights and run the models on: `cpu`, `cuda`, or `auto` for
            cuda where there is one.
        probe: Text that the models are run on.
        stream: Token stream that the series was trained on.
        exposure: `exact` reads the token stream of a public series up to the last step; `auto`
            counts exposure of local trainings only.
        allow_flagged: Whether to keep steps of a hub that the audit flags.
        dask: Address of a dask scheduler to measure on.
    """

    measures: MeasureGroups = Field(default_factory=lambda: list(DEFAULT_GROUPS))
    every_row: bool = False
    paths: bool = False
    covariates: list[str] = Field(default_factory=list)
    words: Words = "space"
    tokenizer: str | None = None
    importance: list[str] = Field(default_factory=list)
    surgery: bool = False
    agreement: bool = False
    live_steps: StepExpression = "all"
    probe_tokens_per_stratum: int = Field(default=40, ge=0)
    contexts: int = Field(default=16, gt=1)
    context_length: int = Field(default=64, ge=4)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    probe: ProbeSettings = ProbeSettings()
    stream: StreamSettings = StreamSettings()
    exposure: Literal["auto", "exact"] = "auto"
    allow_flagged: bool = False
    dask: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _former_all(cls, content: Any) -> Any:
        """Read `all`, which 0.1 had in place of `measures` and `every_row`."""
        if not isinstance(content, dict) or "all" not in content:
            return content
        warn_of("the setting 'all'", "'measures: all' with 'every_row: true'")
        content = dict(content)
        return (EVERYTHING if content.pop("all") else {}) | content

    @field_validator("importance", "covariates", mode="before")
    @classmethod
    def _one_or_several(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names

    @model_validator(mode="after")
    def _probes_something(self) -> "TrackingSettings":
        if self.probe.text is None and (unused := self.probe.unused()):
            raise ValueError(f"{' and '.join(unused)} needs probe.text (--probe); give a text")
        if (self.probe.text or self.probe.tokens) and not self.runs_models:
            raise ValueError(
                "probe.text (--probe) and probe.tokens need importance, surgery or agreement; "
                "give one"
            )
        if not self.most_tokens:
            raise ValueError(
                "no token is probed; set probe_tokens_per_stratum above 0, or name ids in "
                "probe.tokens"
            )
        return self

    @property
    def live_parts(self) -> list[str]:
        """Names of the measures of a running model besides importances."""
        return [name for name in ("surgery", "agreement") if getattr(self, name)]

    @property
    def runs_models(self) -> bool:
        """True if something is measured by running the models."""
        return bool(self.importance or self.live_parts)

    @property
    def most_tokens(self) -> int:
        """Largest possible number of probed tokens."""
        return self.probe.strata * self.probe_tokens_per_stratum + len(self.probe.tokens)

    def live_record(self) -> dict[str, Any]:
        """Return the settings of running the models as in `run.json`, without the device."""
        return {
            "importance": list(self.importance),
            "parts": self.live_parts,
            "steps": self.live_steps,
        }

    def probe_record(self, length: int) -> dict[str, Any]:
        """Return size and seed of the probe set as in `run.json`.

        Args:
            length: Ids of a context; fewer than `context_length` where the text has shorter rows.
        """
        return {
            "strata": self.probe.strata,
            "tokens_per_stratum": self.probe_tokens_per_stratum,
            "contexts": self.contexts,
            "length": length,
            "tokens": list(self.probe.tokens),
            "seed": self.probe.seed,
        }


class StudySettings(Settings):
    """All settings of a study, the configuration of `dynamics train` and `dynamics study`.

    Attributes:
        name: Name of the study, and of its default output folder `runs/NAME`.
        seed: Seed of the initial weights, the order of the rows and the masks.
        corpus: Source of the text.
        tokenizer: Tokenizer to train or use.
        model: Architecture and shape.
        training: Batches, optimizer and schedule.
        checkpoints: Steps at which checkpoints are saved.
        tracking: Measures of the checkpoints. They do not affect the training: they are not
            recorded in a training folder, and may change for an existing one.
    """

    name: str = Field(pattern=r"^[\w-][\w.-]*$")  # no dots alone: it names a folder
    seed: int = Field(default=0, ge=0)
    corpus: CorpusSettings = CorpusSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings
    checkpoints: CheckpointSettings = CheckpointSettings()
    tracking: TrackingSettings = Field(default=TrackingSettings(), exclude=True)


def load(path: str | Path, overrides: Sequence[str] = ()) -> StudySettings:
    """Read the settings of a YAML file and apply overrides, such as `model.tied=true`.

    Args:
        path: The file, or the name of a configuration that comes with the program.
        overrides: Settings that replace those of the file.

    Raises:
        ConfigError: The file cannot be read, or a key is unknown, doubled or of the wrong type.
    """
    content = read_yaml(configuration_file(path))
    for key, value in map(parse_override, overrides):
        set_key(content, key, value)
    return validate(StudySettings, content, str(path))
