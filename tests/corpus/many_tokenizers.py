"""Tokenizers of the kinds that people have, trained on a few lines each."""

import json
import lzma
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, trainers
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre

LINES = [
    "The cat sat on the mat, and the cat's hat isn't 12345 cm wide (or 1 234.5).",
    "  def f(x, y):\n        return x + 1  # “quoted” text…\n\n\n",
    "Naïve café — 東京 は 大きい。 über die Straße,  ΟΔΟΣ και λόγος 🙂 the\tthe",
    "A New York minute;a <mask> b  <mask>  c ▁x▁ foo▁bar x\u0301 e\u0301 y",
    "word\nword\r\nlist\nOne. Two! Three? 2024-01-01 http://a.b/c?d=e&f a_b",
    "the theory of the thing that they think then",
]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def _bpe(normalizer=None, pre_tokenizer=None, **settings):
    tokenizer = Tokenizer(models.BPE(**settings))
    return _trained(tokenizer, normalizer, pre_tokenizer, trainers.BpeTrainer)


def _trained(tokenizer, normalizer, pre_tokenizer, trainer, vocab_size=500, **settings):
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(
        LINES * 3, trainer(vocab_size=vocab_size, show_progress=False, **settings)
    )
    return tokenizer


def _byte_level(*before, normalizer=None, use_regex=False, add_prefix_space=False, **settings):
    last = pre.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)
    tokenizer = Tokenizer(models.BPE(**settings))
    return _trained(
        tokenizer,
        normalizer,
        pre.Sequence([*before, last]) if before else last,
        trainers.BpeTrainer,
        initial_alphabet=pre.ByteLevel.alphabet(),
    )


def _with_added(tokenizer, *tokens):
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def _word_piece(normalizer, pre_tokenizer):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    return _trained(
        tokenizer,
        normalizer,
        pre_tokenizer,
        trainers.WordPieceTrainer,
        special_tokens=["[UNK]"],
    )


def _unigram(pre_tokenizer, normalizer=None):
    tokenizer = Tokenizer(models.Unigram())
    return _trained(
        tokenizer,
        normalizer,
        pre_tokenizer,
        trainers.UnigramTrainer,
        vocab_size=250,
        unk_token="<unk>",
        special_tokens=["<unk>"],
    )


def _words(pre_tokenizer, normalizer=None):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    return _trained(
        tokenizer,
        normalizer,
        pre_tokenizer,
        trainers.WordLevelTrainer,
        vocab_size=60,
        special_tokens=["<unk>"],
    )


def _llama(normalizer=True, **settings):
    """As the converted tokenizers of LLaMA: spaces are entries, and no pre-tokenizer."""
    steps = norm.Sequence([norm.Prepend("▁"), norm.Replace(" ", "▁")])
    if not normalizer:
        steps = norm.Replace(" ", "▁")
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    _trained(
        tokenizer,
        steps,
        pre.Metaspace(prepend_scheme="never"),
        trainers.BpeTrainer,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
    )
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(content))


def _isolated(pattern):
    return pre.Split(Regex(pattern), "isolated")


# Those for which a cut is known; the ids must be exact for the rest as well.
CUT = {
    "byte level": lambda: _byte_level(use_regex=True),
    "byte level, NFC": lambda: _byte_level(use_regex=True, normalizer=norm.NFC()),
    "byte level, prefix space": lambda: _byte_level(use_regex=True, add_prefix_space=True),
    "byte level, lower case, prefix space": lambda: _byte_level(
        use_regex=True, add_prefix_space=True, normalizer=norm.Lowercase()
    ),
    "byte level, strip, prefix space": lambda: _byte_level(
        use_regex=True, add_prefix_space=True, normalizer=norm.Strip()
    ),
    "GPT-4": lambda: _byte_level(_isolated(GPT4)),
    "Llama-3": lambda: _byte_level(_isolated(GPT4), ignore_merges=True),
    "BLOOM": lambda: _byte_level(_isolated(BLOOM)),
    "DeepSeek": lambda: _byte_level(
        _isolated(r"[\r\n]"),
        _isolated(r"\s?\p{L}+"),
        _isolated(r"\s?\p{P}+"),
        _isolated(r"\s+$"),
        pre.Digits(individual_digits=True),
    ),
    "Falcon": lambda: _trained(
        Tokenizer(models.BPE()),
        None,
        pre.Sequence(
            [
                pre.Punctuation("contiguous"),
                pre.ByteLevel(add_prefix_space=False),
                pre.Digits(),
                _isolated("[0-9][0-9][0-9]"),
            ]
        ),
        trainers.BpeTrainer,
        initial_alphabet=pre.ByteLevel.alphabet(),
    ),
    "added tokens": lambda: _with_added(
        _byte_level(use_regex=True),
        "New York",
        AddedToken("cat", rstrip=True, lstrip=True, normalized=False),
        AddedToken("the", single_word=True, rstrip=True),
        "  ",
    ),
    "Metaspace always": lambda: _bpe(None, pre.Metaspace(prepend_scheme="always")),
    "Metaspace first": lambda: _bpe(None, pre.Metaspace(prepend_scheme="first")),
    "Metaspace never": lambda: _bpe(norm.NFKC(), pre.Metaspace(prepend_scheme="never")),
    "Unigram, Metaspace": lambda: _unigram(pre.Metaspace(), norm.NFKC()),
    "T5": lambda: _unigram(pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()])),
    "XLM-R, first": lambda: _unigram(
        pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace(prepend_scheme="first")]),
        norm.Sequence([norm.Nmt(), norm.NFKC(), norm.Replace(Regex(" {2,}"), " ")]),
    ),
    "BERT": lambda: _word_piece(norm.BertNormalizer(), pre.BertPreTokenizer()),
    "BERT, cased": lambda: _word_piece(
        norm.BertNormalizer(lowercase=False), pre.BertPreTokenizer()
    ),
    "words": lambda: _words(pre.Whitespace()),
    "words, cleaned": lambda: _words(
        pre.WhitespaceSplit(),
        norm.Sequence([norm.NFD(), norm.StripAccents(), norm.Lowercase(), norm.Strip()]),
    ),
    "words at one space": lambda: _words(pre.CharDelimiterSplit(" ")),
    "BPE of words": lambda: _bpe(None, pre.Whitespace(), unk_token=None),
    "BPE, end of word": lambda: _trained(
        Tokenizer(models.BPE(end_of_word_suffix="</w>")),
        norm.Lowercase(),
        pre.BertPreTokenizer(),
        trainers.BpeTrainer,
        end_of_word_suffix="</w>",
    ),
    "LLaMA": _llama,
    "LLaMA without prefix": lambda: _llama(normalizer=False),
}
WHOLE = {
    "BPE over spaces": lambda: _bpe(),
    "Metaspace without split": lambda: _bpe(None, pre.Metaspace(split=False)),
    "Unigram without split": lambda: _unigram(pre.Metaspace(split=False)),
    "byte level without pattern": lambda: _byte_level(),
    "quotations": lambda: _byte_level(_isolated('"[^"]*"|\\S+|\\s+')),
    "fixed length": lambda: _byte_level(pre.FixedLength(7)),
    "looks ahead": lambda: _byte_level(_isolated(r"\S+(?=[^#]*#)|\S|\s+")),
    "space after the word": lambda: _byte_level(pre.Split(" ", "merged_with_previous")),
    "byte level normalizer": lambda: _bpe(norm.ByteLevel()),
    "digits only": lambda: _byte_level(pre.Digits()),
}


@cache
def tokenizer_of(name):
    tokenizer = {**CUT, **WHOLE}[name]()
    tokenizer.encode_special_tokens = True
    return tokenizer


@cache
def real_tokenizer(data: Path, name: str) -> Tokenizer:
    if name == "stories260K":
        tokenizer = Tokenizer.from_file(str(data / "models" / name / "tokenizer.json"))
    else:
        packed = (data / "tokenizers" / f"{name}_tokenizer.json.xz").read_bytes()
        tokenizer = Tokenizer.from_str(lzma.decompress(packed).decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
