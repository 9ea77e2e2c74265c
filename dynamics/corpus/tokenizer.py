"""Tokenizers: trained on the spot or loaded, told apart by a digest, and applied to documents.

Documents get the ids that they have as a whole, without the special tokens of any template. A
special token that stands in a document as text is text: it is split like any other, so no document
can end itself.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dynamics.checkpoints.hub import Hub
from dynamics.checkpoints.revisions import HubRevision
from dynamics.corpus.document_pieces import DocumentCutter
from dynamics.corpus.large_text import Document, LargeText, parts_of
from dynamics.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"
_BATCH_CHARACTERS = 4_000_000
_LARGE_DOCUMENT = 1_000_000  # characters from which on a document is tokenised in pieces
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_OLD_FILES = ("vocab.json", "merges.txt", "vocab.txt")  # where there is no tokenizer.json


def train_tokenizer(
    documents: Iterable[Document], vocab_size: int, *, masked: bool = False
) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer; the same documents give the same tokenizer.

    Its entries are `<|endoftext|>` (which begins, ends and pads), `<|mask|>` for masked models, the
    256 bytes, then merges, so every text can be tokenised and decoded without loss.

    Args:
        documents: Text, in any order.
        vocab_size: Number of entries wanted, special tokens included.
        masked: Whether a mask token is needed.

    Raises:
        CorpusError: There is no text, or too little of it for `vocab_size` entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [END_OF_TEXT, MASK] if masked else [END_OF_TEXT]
    if vocab_size < (least := len(special) + 256):
        raise CorpusError(
            f"a vocabulary of {vocab_size} has no room for 256 bytes and {len(special)} special "
            f"tokens; ask for {least} or more"
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
    # A copy cuts: the tokenizer itself is locked while it is trained.
    cutter = DocumentCutter(Tokenizer.from_str(tokenizer.to_str()))
    texts = (piece.text for document in documents for piece in cutter.cut(parts_of(document)))
    tokenizer.train_from_iterator(texts, trainer)
    if (reached := tokenizer.get_vocab_size()) < vocab_size:
        raise CorpusError(
            f"the corpus is too small for a vocabulary of {vocab_size}: it reaches {reached}; "
            "give more text or ask for fewer tokens"
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
        path_or_name: Which one.
        hub: The hub, as the environment says when None.
        trust_remote_code: Run the code that a folder may bring along.

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
    """Load the tokenizer of a revision on a hub, which is asked for its small files alone.

    Raises:
        CorpusError: There is none, it is damaged, or it is not backed by `tokenizers`.
        CheckpointError: The hub cannot be reached, or has no such revision.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _copied(revision, _FILES, folder)
        if _FILES[0] not in found:
            _copied(revision, _OLD_FILES, folder)
        if b'"tokenizer_class"' not in found.get("tokenizer_config.json", b""):
            _copied(revision, ("config.json",), folder)
        return _load(Path(folder), revision.repo)


def _copied(revision: HubRevision, filenames: Iterable[str], folder: str) -> dict[str, bytes]:
    """Those of the files that there are, also written into the folder."""
    found = {}
    for filename in filenames:
        if (content := revision.read_bytes(filename)) is not None:
            Path(folder, filename).write_bytes(content)
            found[filename] = content
    return found


def _load(path: Path, name: str, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerFast":
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except Exception as error:  # the Rust side raises bare `Exception`
        reason = " ".join(str(error).replace(str(path), name).split())
        raise CorpusError(f"the tokenizer {name} cannot be loaded: {reason}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        kind = type(tokenizer).__name__
        raise CorpusError(f"the tokenizer {name} ({kind}) has no tokenizer.json; convert it")
    return tokenizer


def plain_backend(tokenizer: "PreTrainedTokenizerFast") -> "Tokenizer":
    """A private copy of the backend that neither truncates, nor pads, nor finds special tokens."""
    from tokenizers import Tokenizer

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
    """One more than the largest id the tokenizer has an entry for, added tokens included."""
    return max(tokenizer.get_vocab().values()) + 1


def end_of_text_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """Id of the token that ends a document: end of sentence, else separator, else None."""
    token = tokenizer.eos_token or tokenizer.sep_token
    return tokenizer.get_vocab()[str(token)] if token else None


class TokenizedPiece(NamedTuple):
    """A document, or a part of a large one, with its token ids.

    Attributes:
        document: The whole document that the ids belong to.
        ids: Ids of this piece; those of all its pieces are the document's.
        ends_document: Whether it is the last piece of the document; it may have no ids then.
    """

    document: Document
    ids: list[int]
    ends_document: bool = True


def tokenize(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerFast",
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[TokenizedPiece]:
    """Tokenise documents in batches on all cores, large ones in pieces (`document_pieces`).

    Args:
        documents: Text.
        tokenizer: Applied to each document as a whole.
        report: Called with a line when a large document cannot be cut, which takes memory.

    Returns:
        The documents in their order with their ids.
    """
    backend = plain_backend(tokenizer)
    cutter = DocumentCutter(backend, report)
    for batch in _batches(documents):
        if isinstance(batch, list):
            encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
            yield from map(TokenizedPiece, batch, (encoding.ids for encoding in encodings))
            continue
        for ids in cutter.encode(parts_of(batch)):
            yield TokenizedPiece(batch, ids, ends_document=False)
        yield TokenizedPiece(batch, [])


def _batches(documents: Iterable[Document]) -> Iterator[list[str] | Document]:
    """Documents in batches; each large one stands alone, not in a list."""
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
