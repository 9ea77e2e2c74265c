"""Tokenizers: trained on the spot or loaded, told apart by a digest, and applied to documents.

Documents are tokenised whole, without the special tokens of any template. A special token that
stands in a document as text is text: it is split like any other, so no document can end itself.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dynamics.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"
_BATCH_CHARACTERS = 4_000_000


def train_tokenizer(
    documents: Iterable[str], vocab_size: int, *, masked: bool = False
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
    tokenizer.train_from_iterator(documents, trainer)
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
    path_or_name: str | Path, *, trust_remote_code: bool = False
) -> "PreTrainedTokenizerFast":
    """Load a tokenizer from a folder, a `tokenizer.json` or a hub repository.

    Args:
        path_or_name: Which.
        trust_remote_code: Run the code that it may bring along.

    Raises:
        CorpusError: Nothing is there, it is damaged, or it is not backed by `tokenizers`.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(path_or_name).expanduser()
    if not path.exists() and (path.suffix == ".json" or str(path_or_name)[:1] in (".", "/", "~")):
        raise CorpusError(
            f"there is no tokenizer {path}; give a folder, a tokenizer.json or a name"
        )
    try:
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        tokenizer = AutoTokenizer.from_pretrained(
            str(path if path.exists() else path_or_name), trust_remote_code=trust_remote_code
        )
    except Exception as error:  # the Rust side raises bare `Exception`
        reason = " ".join(str(error).split())
        raise CorpusError(f"the tokenizer {path_or_name} cannot be loaded: {reason}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        kind = type(tokenizer).__name__
        raise CorpusError(
            f"the tokenizer {path_or_name} ({kind}) has no tokenizer.json; convert it"
        )
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


def tokenize(
    documents: Iterable[str], tokenizer: "PreTrainedTokenizerFast"
) -> Iterator[tuple[str, list[int]]]:
    """Each document with its token ids, tokenised in batches on all cores."""
    backend = plain_backend(tokenizer)
    for batch in _batches(documents):
        encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        yield from zip(batch, (encoding.ids for encoding in encodings), strict=True)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
