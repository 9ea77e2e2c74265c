"""Tiny random models of every architecture that is named, with a head, and tokenizers to match.

Every weight is random, those of norms and biases too, so that nothing that is left out goes unseen.
"""

from functools import cache

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

V, D, L, H, F, POSITIONS = 96, 16, 2, 2, 24, 40
_SHAPE = {"vocab_size": V, "hidden_size": D, "num_attention_heads": H, "intermediate_size": F}
_LAYERS = {**_SHAPE, "num_hidden_layers": L, "max_position_embeddings": POSITIONS}
_TEXT_END = {"bos_token_id": 0, "eos_token_id": 0}
_MODERN = {"pad_token_id": 0, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2}
_MODERN |= {"eos_token_id": 2, "num_hidden_layers": 3}

CONFIGS = {
    "bert": lambda: hf.BertConfig(**_LAYERS),
    "roberta": lambda: hf.RobertaConfig(
        **_LAYERS | {"max_position_embeddings": POSITIONS + 2}, type_vocab_size=1
    ),
    "deberta": lambda: hf.DebertaV2Config(
        **_LAYERS, relative_attention=True, pos_att_type=["p2c", "c2p"],
        position_biased_input=False, pooler_hidden_size=D, type_vocab_size=0,
    ),
    "distilbert": lambda: hf.DistilBertConfig(
        vocab_size=V, dim=D, n_layers=L, n_heads=H, hidden_dim=F, max_position_embeddings=POSITIONS
    ),
    "electra": lambda: hf.ElectraConfig(**_LAYERS, embedding_size=8),
    "modernbert": lambda: hf.ModernBertConfig(**_LAYERS | _MODERN),
    "modernbert_mean": lambda: hf.ModernBertConfig(
        **_LAYERS | _MODERN, classifier_pooling="mean"
    ),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=V, n_embd=D, n_layer=L, n_head=H, n_positions=POSITIONS, **_TEXT_END
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_LAYERS, **_TEXT_END),
    "llama": lambda: hf.LlamaConfig(**_LAYERS, num_key_value_heads=1),
    "gemma2": lambda: hf.Gemma2Config(
        **_LAYERS, num_key_value_heads=1, head_dim=8, sliding_window=16, final_logit_softcapping=2.0
    ),
    "opt": lambda: hf.OPTConfig(
        vocab_size=V, hidden_size=D, word_embed_proj_dim=D, num_hidden_layers=L,
        num_attention_heads=H, ffn_dim=F, max_position_embeddings=POSITIONS,
    ),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=V, hidden_size=D, n_layer=L, n_head=H, **_TEXT_END
    ),
    "mamba": lambda: hf.MambaConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=L, state_size=4, **_TEXT_END
    ),
    "t5": lambda: hf.T5Config(
        vocab_size=V, d_model=D, d_kv=8, num_layers=L, num_heads=H, d_ff=F, decoder_start_token_id=0
    ),
    "bart": lambda: hf.BartConfig(
        vocab_size=V, d_model=D, encoder_layers=L, decoder_layers=L, encoder_attention_heads=H,
        decoder_attention_heads=H, encoder_ffn_dim=F, decoder_ffn_dim=F,
        max_position_embeddings=POSITIONS,
    ),
}  # fmt: skip
VARIANTS = {  # architectures of another kind of block, and of more than one kind
    "olmo2": lambda: hf.Olmo2Config(**_LAYERS, num_key_value_heads=1, **_TEXT_END),
    "gpt_neox_sequential": lambda: hf.GPTNeoXConfig(
        **_LAYERS, **_TEXT_END, use_parallel_residual=False
    ),
    "t5_gated": lambda: hf.T5Config(
        vocab_size=V, d_model=D, d_kv=8, num_layers=L, num_heads=H, d_ff=F,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    ),
}  # fmt: skip
MASKED = (
    "bert", "roberta", "deberta", "distilbert", "electra", "modernbert", "modernbert_mean",
)  # fmt: skip
CAUSAL = ("gpt2", "gpt_neox", "llama", "gemma2", "opt", "bloom", "mamba")
SEQ2SEQ = ("t5", "bart")
CLASSIFIERS = tuple(name for name in CONFIGS if name != "mamba")
LANGUAGE_MODELS = (*MASKED[:-1], *CAUSAL, *SEQ2SEQ)

# The norm between the last block and the head, as it is called in each architecture.
FINAL_NORMS = {
    "modernbert": lambda base: base.final_norm,
    "modernbert_mean": lambda base: base.final_norm,
    "gpt2": lambda base: base.ln_f,
    "gpt_neox": lambda base: base.final_layer_norm,
    "llama": lambda base: base.norm,
    "gemma2": lambda base: base.norm,
    "opt": lambda base: base.decoder.final_layer_norm,
    "bloom": lambda base: base.ln_f,
    "mamba": lambda base: base.norm_f,
    "t5": lambda base: base.final_layer_norm,
}

_AUTO = {
    "causal": hf.AutoModelForCausalLM,
    "masked": hf.AutoModelForMaskedLM,
    "seq2seq": hf.AutoModelForSeq2SeqLM,
    "classification": hf.AutoModelForSequenceClassification,
    "regression": hf.AutoModelForSequenceClassification,
    "none": hf.AutoModel,
}


def language_task(name):
    """The task of an architecture's head over the vocabulary."""
    return "masked" if name in MASKED else "causal" if name in CAUSAL else "seq2seq"


def build(name, task=None, *, dtype=torch.float32, large_weights=False, **changes):
    """A model in evaluation mode, the same whenever it is built.

    task: as in `LiveModel`; None for the head over the vocabulary. large_weights: so large that it
    is far from linear. changes: of the configuration.
    """
    task = task or language_task(name)
    config = (CONFIGS | VARIANTS)[name]()
    if task in ("classification", "regression"):
        config.num_labels = changes.pop("num_labels", 1 if task == "regression" else 3)
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _AUTO[task].from_config(config)
        with torch.no_grad():
            for weight in network.parameters():
                spread = torch.randn_like(weight)
                if not large_weights:
                    weight += 0.2 * spread
                elif weight.dim() == 1:
                    weight += 0.3 * spread
                else:
                    weight.copy_(spread / weight.shape[-1] ** 0.5)
            if task == "seq2seq" and name == "bart":
                network.final_logits_bias.normal_()
    return network.to(dtype).eval()


def live(name, task=None, **changes):
    """A `LiveModel` that was not loaded from anywhere."""
    from dynamics.models.live_model import LiveModel

    network = build(name, task, **changes)
    return LiveModel(network, tokenizer(name), task or language_task(name), f"tiny {name}")


WORDS = [
    "the", "cat", "dog", "man", "sat", "ran", "on", "mat",
    "not", "bad", "good", "film", "is", "was", "a", "very",
]  # fmt: skip
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BERT = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
_TEXT = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
_FAIRSEQ = {
    "bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>",
}  # fmt: skip

# Special tokens by role, in the order of their ids; template of one text and of a pair.
FAMILIES = {
    "bert": (_BERT, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": (_FAIRSEQ | {"mask": "<mask>"}, "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "text": (_TEXT, "$A", "$A $B"),
    "llama": (
        {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, "<s> $A", "<s> $A <s> $B",
    ),
    "gemma": (
        {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}, "<bos> $A",
        "<bos> $A $B",
    ),
    "opt": (
        {"cls": "<s>", "pad": "<pad>", "bos": "</s>", "eos": "</s>", "unk": "<unk>"}, "</s> $A",
        "</s> $A </s> $B",
    ),
    "t5": ({"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, "$A </s>", "$A </s> $B </s>"),
}  # fmt: skip
TOKENIZERS = dict.fromkeys(CONFIGS, "bert") | dict.fromkeys((*CAUSAL, *VARIANTS), "text")
TOKENIZERS |= {"roberta": "roberta", "bart": "roberta", "llama": "llama", "gemma2": "gemma"}
TOKENIZERS |= {"opt": "opt", "t5": "t5", "t5_gated": "t5"}


@cache
def tokenizer(name):
    """A tokenizer with the special tokens of an architecture, at the ids its configuration has.

    WordPiece for those of the BERT family, byte-level BPE for the others; `WORDS` are one token
    each, other words are split into letters.
    """
    family = TOKENIZERS[name]
    roles, single, pair = FAMILIES[family]
    special = list(dict.fromkeys(roles.values()))
    backend = _wordpiece(special) if family == "bert" else _bpe(special)
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(each, special.index(each)) for each in special]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=POSITIONS,
        **{f"{role}_token": token for role, token in roles.items()},
    )


def _wordpiece(special):
    pieces = [*special, *WORDS, *(f"##{each}" for each in _LETTERS)]
    pieces += [each for each in _LETTERS if each not in WORDS]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _bpe(special):
    merges = {}
    for word in WORDS:
        for end in range(len(word)):
            merges[("Ġ" + word[:end], word[end])] = "Ġ" + word[: end + 1]
    pieces = dict.fromkeys([*special, *_LETTERS, "Ġ", *merges.values()])
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    return backend


def write(folder, name, task=None, *, with_tokenizer=True, **changes):
    """A model and its tokenizer as a folder that transformers reads."""
    network = build(name, task, **changes)
    network.save_pretrained(folder)
    if with_tokenizer:
        tokenizer(name).save_pretrained(folder)
    return network
