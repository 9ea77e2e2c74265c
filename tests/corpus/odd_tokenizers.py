"""Tokenizers as people have them, each small enough to tell by hand what it does with a text."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers import normalizers as norm
from transformers import PreTrainedTokenizerFast

BYTES = pre_tokenizers.ByteLevel.alphabet()


def fast(
    model, *, normalizer=None, pre_tokenizer=None, decoder=None, special=(), added=(), **roles
):
    """A tokenizer of parts; a list of normalizers or pre-tokenizers is a sequence."""
    backend = Tokenizer(model)
    if isinstance(normalizer, list):
        normalizer = norm.Sequence(normalizer)
    if isinstance(pre_tokenizer, list):
        pre_tokenizer = pre_tokenizers.Sequence(pre_tokenizer)
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(list(special))
    backend.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def numbered(entries):
    return {entry: index for index, entry in enumerate(dict.fromkeys(entries))}


def bpe(entries, merges=(), **settings):
    return models.BPE(numbered(entries), list(merges), **settings)


def word_piece(entries, **settings):
    return models.WordPiece(numbered(["[UNK]", *entries]), unk_token="[UNK]", **settings)


def unigram(entries, unk_id=0, **settings):
    return models.Unigram([("<unk>", 0.0), *((e, -1.0) for e in entries)], unk_id, **settings)


def byte_level(alphabet=None, **parts):
    alphabet = sorted(BYTES) if alphabet is None else alphabet
    return fast(
        bpe(alphabet),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
        **parts,
    )


__all__ = [
    "BYTES",
    "AddedToken",
    "Regex",
    "bpe",
    "byte_level",
    "fast",
    "norm",
    "numbered",
    "pre_tokenizers",
    "unigram",
    "word_piece",
]
