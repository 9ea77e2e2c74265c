"""Tokenizers: trained or loaded, identified by a digest, and applied to documents.

Documents get the ids that they have as a whole, without the special tokens of any template. The
text of a special token in a document is split like any other text, so that no document can end
itself.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dynamics.checkpoints.hub.client import Hub
from dynamics.checkpoints.hub.revisions import HubRevision
from dynamics.checkpoints.step_names import parse_step_name
from dynamics.checkpoints.training_folder import training_of
from dynamics.corpus.documents.document_pieces import DocumentCutter
from dynamics.corpus.documents.large_text import Document, LargeText, parts_of
from dynamics.corpus.tokenizers.spelling import model_words, unknown_id
from dynamics.errors import CorpusError, DynamicsError, NoTokenizerError
from dynamics.progress import Report, no_report

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"
_BATCH_CHARACTERS = 4_000_000
_LARGE_DOCUMENT = 1_000_000  # characters from which on a document is tokenised in pieces
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files any of which is a tokenizer."""

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_OLD_FILES = ("vocab.json", "merges.txt", "vocab.txt")  # where there is no tokenizer.json
_MOST_ROWS = 1 << 24  # more than any model has; arrays with a row per id would not fit in memory
_SHOWN = 40  # characters of a word in a message


@contextmanager
def backend_errors(
    failure: str, remedy: str, *, shown: tuple[str, str] = ("", "")
) -> Iterator[None]:
    """Turn a failure of `tokenizers` into one line.

    Its Rust side raises bare `Exception`, and its panics do not derive from `Exception`.

    Args:
        failure: Clause on the failed operation, which begins the message.
        remedy: Clause on the remedy, which ends the message.
        shown: A string of the backend's reason, and its replacement in the message.

    Raises:
        CorpusError: The backend failed.
    """
    try:
        yield
    except BaseException as error:
        panicked = type(error).__module__ == "pyo3_runtime"
        if isinstance(error, DynamicsError) or not (panicked or isinstance(error, Exception)):
            raise
        reason = str(error) or type(error).__name__
        reason = " ".join(reason.replace(*shown).split() if shown[0] else reason.split())
        raise CorpusError(f"{failure}: {reason}; {remedy}") from error


def train_tokenizer(
    documents: Iterable[Document], vocab_size: int, *, masked: bool = False
) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer; the same documents give the same tokenizer.

    Its entries are `<|endoftext|>` (which begins, ends and pads), `<|mask|>` for masked models, the
    256 bytes, then merges, so every text can be tokenised and decoded without loss.

    Args:
        documents: Text, in any order.
        vocab_size: Number of entries, special tokens included.
        masked: Add a mask token.

    Raises:
        CorpusError: There is no text, or too little of it for `vocab_size` entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [END_OF_TEXT, MASK] if masked else [END_OF_TEXT]
    if vocab_size < (least := len(special) + 256):
        raise CorpusError(
            f"a vocabulary of {vocab_size} has no room for 256 bytes and {len(special)} special "
            f"tokens; give a vocab_size of {least} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with backend_errors("no tokenizer can be trained on the corpus", "check its text"):
        # A copy cuts: the tokenizer itself is locked while it is trained.
        cutter = DocumentCutter(Tokenizer.from_str(tokenizer.to_str()))
        texts = (piece.text for document in documents for piece in cutter.cut(parts_of(document)))
        tokenizer.train_from_iterator(texts, trainer)
    if (reached := tokenizer.get_vocab_size()) < vocab_size:
        raise CorpusError(
            f"the corpus is too small for a vocabulary of {vocab_size}: it reaches {reached}; "
            "give more text or a smaller vocab_size"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        **({"mask_token": MASK} if masked else {}),
    )


def load_tokenizer(
    path_or_name: str | Path, hub: Hub | None = None, *, trust_remote_code: bool = False
) -> "PreTrainedTokenizerFast":
    """Load a tokenizer from a folder, a `tokenizer.json` or a hub repository.

    Args:
        path_or_name: Path or repository of the tokenizer.
        hub: The hub; the one of the environment when None.
        trust_remote_code: Run code that is in the folder.

    Raises:
        CorpusError: Nothing is there, it is damaged, or it is not backed by `tokenizers`.
        CheckpointError: The hub cannot be reached, or has no such repository.
    """
    path = Path(path_or_name).expanduser()
    if path.exists():
        return _load(path, str(path_or_name), trust_remote_code=trust_remote_code)
    if path.suffix == ".json" or str(path_or_name)[:1] in (".", "/", "~"):
        raise CorpusError(
            f"there is no tokenizer {path}; give a folder, a tokenizer.json or a name"
        )
    return fetch_tokenizer(HubRevision(hub or Hub(), str(path_or_name), "main"))


def fetch_tokenizer(revision: HubRevision) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a revision on a hub; only its small files are downloaded.

    Raises:
        CorpusError: There is none, it is damaged, or it is not backed by `tokenizers`.
        CheckpointError: The hub cannot be reached, or has no such revision.
    """
    with tempfile.TemporaryDirectory() as folder:
        contents = _copy(revision, _FILES, folder)
        if _FILES[0] not in contents:
            _copy(revision, _OLD_FILES, folder)
        if b'"tokenizer_class"' not in contents.get("tokenizer_config.json", b""):
            _copy(revision, ("config.json",), folder)
        return _load(Path(folder), revision.repo)


def _copy(revision: HubRevision, filenames: Iterable[str], folder: str) -> dict[str, bytes]:
    """Copy the files that exist into the folder; return their contents by name."""
    contents = {}
    for filename in filenames:
        if (content := revision.read_bytes(filename)) is not None:
            Path(folder, filename).write_bytes(content)
            contents[filename] = content
    return contents


def tokenizer_folder(checkpoint: Path) -> Path | None:
    """Return the folder of the tokenizer of a checkpoint, None where no file of one is found.

    It is that of the checkpoint, or that of the checkpoints, where trainers leave it too, or that
    of the training folder that `dynamics train` made.
    """
    folders = [checkpoint]
    path = Path(os.path.abspath(checkpoint))  # noqa: PTH100 (a link called step-4 is step 4)
    if (training := training_of(path)) is not None:
        folders += [training / "tokenizer"]
    elif parse_step_name(path.name) is not None:  # else the folder above may be of anything
        folders += [path.parent]
    return next((folder for folder in folders if _holds_tokenizer(folder)), None)


def _holds_tokenizer(folder: Path, files: Iterable[str] = TOKENIZER_FILES) -> bool:
    return any((folder / file).is_file() for file in files)


def _check_holds_tokenizer(folder: Path, name: str, files: Iterable[str]) -> None:
    """Refuse a folder without any of the files: transformers makes tokenizers of `config.json`."""
    if not _holds_tokenizer(folder, files):
        raise NoTokenizerError(
            f"{name} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); give the folder of the one "
            "that the model was trained with"
        )


def _load(path: Path, name: str, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerFast":
    """Tokenizer of a folder or a `tokenizer.json`; `name` stands for it in messages."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    remedy = (
        "give a tokenizer whose files are whole and which the installed tokenizers "
        f"{version('tokenizers')} reads"
    )
    with backend_errors(f"the tokenizer {name} cannot be loaded", remedy, shown=(str(path), name)):
        if path.is_file():
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
        else:
            _check_holds_tokenizer(path, name, [*TOKENIZER_FILES, "tokenizer_config.json"])
            tokenizer = AutoTokenizer.from_pretrained(
                str(path), trust_remote_code=trust_remote_code
            )
            own_files = getattr(tokenizer, "vocab_files_names", {}).values()
            _check_holds_tokenizer(path, name, [*TOKENIZER_FILES, *own_files])
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            kind = type(tokenizer).__name__
            raise CorpusError(f"the tokenizer {name} ({kind}) has no tokenizer.json; convert it")
        if (rows := vocabulary_size(tokenizer)) > _MOST_ROWS:
            raise CorpusError(
                f"the tokenizer {name} has {len(tokenizer.get_vocab()):,} entries and ids up to "
                f"{rows - 1:,}, more than any model has rows; correct the ids in its tokenizer.json"
            )
    return tokenizer


def save_tokenizer(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Write the files of a tokenizer into a folder.

    Raises:
        CorpusError: They cannot be written.
    """
    with backend_errors(f"the tokenizer cannot be written to {folder}", "give another folder"):
        tokenizer.save_pretrained(folder)


def plain_backend(tokenizer: "PreTrainedTokenizerFast") -> "Tokenizer":
    """Return a copy of the backend that does not truncate, pad, or recognise special tokens."""
    from tokenizers import Tokenizer

    with backend_errors("the tokenizer cannot be copied", "give one without code of its own"):
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def tokenizer_sha256(tokenizer: "PreTrainedTokenizerFast") -> str:
    """Digest of a tokenizer's serialised backend, the same before saving and after loading.

    Truncation and padding are left out: they are settings of the last call, not of the tokenizer.
    """
    return hashlib.sha256(plain_backend(tokenizer).to_str().encode()).hexdigest()


def vocabulary_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Largest id of the tokenizer's entries, added tokens included, plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def end_of_text_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """Id of the token that ends a document: end of sentence, else separator, else None."""
    token = tokenizer.eos_token or tokenizer.sep_token
    return tokenizer.get_vocab()[str(token)] if token else None


class TokenizedPiece(NamedTuple):
    """A document, or a part of a large one, with its token ids.

    Attributes:
        document: The whole document that the ids belong to.
        ids: Ids of this piece; those of all pieces together are the document's.
        ends_document: True for the last piece of a document, which may have no ids.
    """

    document: Document
    ids: list[int]
    ends_document: bool = True


def tokenize(
    documents: Iterable[Document], tokenizer: "PreTrainedTokenizerFast", report: Report = no_report
) -> Iterator[TokenizedPiece]:
    """Tokenise documents in batches on all cores, large ones in pieces (`document_pieces`).

    Args:
        documents: Documents of text.
        tokenizer: Tokenizer, applied to each document as a whole.
        report: Called with a line when a large document cannot be cut, which takes memory.

    Returns:
        The documents in their order with their ids.
    """
    backend = plain_backend(tokenizer)
    cutter = DocumentCutter(backend, report)
    for batch in _batches(documents):
        if isinstance(batch, list):
            encodings = _encoded(backend, batch)
            yield from map(TokenizedPiece, batch, (encoding.ids for encoding in encodings))
            continue
        with backend_errors("the text cannot be tokenised", _remedy(backend)):
            for ids in cutter.encode(parts_of(batch)):
                yield TokenizedPiece(batch, ids, ends_document=False)
        yield TokenizedPiece(batch, [])


def _encoded(backend: "Tokenizer", texts: list[str]) -> "list[Encoding]":
    """Encodings of texts; where the model fails, the message names the word it fails on."""
    try:
        with backend_errors("the text cannot be tokenised", _remedy(backend)):
            return backend.encode_batch_fast(texts, add_special_tokens=False)
    except CorpusError as error:
        if (word := _refused_word(backend, texts)) is None:
            raise
        raise CorpusError(str(error).replace("the text", f"{word!r} in the text", 1)) from error


def _refused_word(backend: "Tokenizer", texts: list[str]) -> str | None:
    """First word, as the model gets it, on which the model fails; None if there is none."""
    for text in texts:
        try:
            with backend_errors("the text cannot be split", "leave it out"):
                words = model_words(backend, text)
        except CorpusError:  # the text does not get to the model
            return None
        for word in words:
            try:
                with backend_errors("a word cannot be tokenised", "leave it out"):
                    backend.model.tokenize(word)
            except CorpusError:
                return word if len(word) <= _SHOWN else f"{word[:_SHOWN]}..."
    return None


def _remedy(backend: "Tokenizer") -> str:
    """Remedy for a model that fails on a text."""
    if unknown_id(backend) is None:
        return (
            f"its {type(backend.model).__name__} model has no unknown token: make one of its "
            "entries that (unk_token, or unk_id of Unigram, in tokenizer.json), or give another "
            "tokenizer"
        )
    return "give another tokenizer"


def _batches(documents: Iterable[Document]) -> Iterator[list[str] | Document]:
    """Group documents into batches; a large document is yielded alone, not in a list."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        if isinstance(document, LargeText) or len(document) >= _LARGE_DOCUMENT:
            if batch:
                yield batch
            yield document
            batch, characters = [], 0
            continue
        batch.append(document)
        characters += len(document)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
