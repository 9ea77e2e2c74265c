"""Tiny random models of every architecture, with weights large enough to be far from linear."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import torch
import transformers as hf

from dynamics.attribution.question import Question, Settings
from dynamics.models.live import Batch, LiveModel

V, D, H, F = 60, 16, 2, 24
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {"hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": H} | {
    "intermediate_size": F,
    "max_position_embeddings": 40,
}
GROUPED = DECODER | {"num_key_value_heads": 1}
MODERN = DECODER | ENDS | {"cls_token_id": 1, "sep_token_id": 2, "num_hidden_layers": 3}
GPT2 = {"n_embd": D, "n_layer": 2, "n_head": H, "n_positions": 40}
CONFIGS = {
    "bert": (hf.BertConfig, DECODER),
    "roberta": (hf.RobertaConfig, DECODER | {"type_vocab_size": 1}),
    "deberta": (
        hf.DebertaV2Config,
        DECODER
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": D}
        | {"position_biased_input": False, "type_vocab_size": 0},
    ),
    "distilbert": (
        hf.DistilBertConfig,
        {"dim": D, "n_layers": 2, "n_heads": H, "hidden_dim": F, "max_position_embeddings": 40},
    ),
    "electra": (hf.ElectraConfig, DECODER | {"embedding_size": 8}),
    "modernbert": (hf.ModernBertConfig, MODERN),
    "modernbert_mean": (hf.ModernBertConfig, MODERN | {"classifier_pooling": "mean"}),
    "gpt2": (hf.GPT2Config, GPT2 | {"bos_token_id": 1, "eos_token_id": 2}),
    "gpt_neox": (hf.GPTNeoXConfig, DECODER),
    "gpt_neox_sequential": (hf.GPTNeoXConfig, DECODER | {"use_parallel_residual": False}),
    "llama": (hf.LlamaConfig, GROUPED),
    "gemma2": (
        hf.Gemma2Config,
        GROUPED | {"head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 2.0},
    ),
    "opt": (
        hf.OPTConfig,
        {"hidden_size": D, "word_embed_proj_dim": D, "num_hidden_layers": 2, "ffn_dim": F}
        | {"num_attention_heads": H, "max_position_embeddings": 40},
    ),
    "bloom": (hf.BloomConfig, {"hidden_size": D, "n_layer": 2, "n_head": H}),
    "mamba": (hf.MambaConfig, {"hidden_size": D, "num_hidden_layers": 2, "state_size": 4}),
    "t5": (
        hf.T5Config,
        {"d_model": D, "d_kv": 8, "num_layers": 2, "num_heads": H, "d_ff": F}
        | {"decoder_start_token_id": 0},
    ),
    "t5_gated": (
        hf.T5Config,
        {"d_model": D, "d_kv": 8, "num_layers": 2, "num_heads": H, "d_ff": F}
        | {"decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"},
    ),
    "bart": (
        hf.BartConfig,
        {"d_model": D, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 40}
        | {"encoder_attention_heads": H, "decoder_attention_heads": H}
        | {"encoder_ffn_dim": F, "decoder_ffn_dim": F},
    ),
}
TASKS = {
    "causal": hf.AutoModelForCausalLM,
    "masked": hf.AutoModelForMaskedLM,
    "seq2seq": hf.AutoModelForSeq2SeqLM,
    "classification": hf.AutoModelForSequenceClassification,
}
MASKED = ("bert", "roberta", "deberta", "distilbert", "electra", "modernbert")
CAUSAL = ("gpt2", "gpt_neox", "gpt_neox_sequential", "llama", "gemma2", "opt", "bloom")
ATTENTION = (
    *((name, "masked", "source") for name in MASKED),
    *((name, "causal", "source") for name in CAUSAL),
    *((name, "classification", "source") for name in (*MASKED, *CAUSAL, "modernbert_mean", "bart")),
    *(
        (name, "seq2seq", side)
        for name in ("t5", "t5_gated", "bart")
        for side in ("source", "target")
    ),
    ("t5", "classification", "target"),
)
BATCHED = (
    *((name, "causal", "source") for name in ("gpt2", "gpt_neox", "gemma2", "bloom")),
    *((name, "masked", "source") for name in ("bert", "deberta")),
    *((name, "classification", "source") for name in ("bert", "modernbert_mean", "opt", "bart")),
    ("t5", "seq2seq", "source"),
    ("t5", "seq2seq", "target"),
)


def named(cases):
    return {"argvalues": cases, "ids": ["-".join(each) for each in cases]}


def tokenizer(**tokens):
    """Tokens 0 to 3 are special: padding, two ends, mask."""
    known = {"mask_token_id": 3, "pad_token_id": 0, "unk_token_id": None}
    known |= {"bos_token_id": 1, "eos_token_id": 2}
    return SimpleNamespace(**{"all_special_ids": [0, 1, 2, 3]} | known | tokens)


@cache
def live_model(name, task="causal", dtype=torch.float64):
    """Not to be changed: `fresh_model` is."""
    return fresh_model(name, task, dtype)


def fresh_model(name, task="causal", dtype=torch.float64):
    make, sizes = CONFIGS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = TASKS[task].from_config(make(vocab_size=V, **sizes)).eval()
        for parameter in network.parameters():
            spread = torch.randn_like(parameter)
            if parameter.dim() == 1:
                parameter.data += 0.3 * spread
            else:
                parameter.data = spread / parameter.shape[-1] ** 0.5
    return LiveModel(network.to(dtype), tokenizer(), task, name)


def question(model, side="source", **settings):
    """Two inputs, the second padded, with two targets and one; a contrast among them."""
    ids = torch.tensor([[5, 6, 1, 8, 9], [14, 15, 7, 0, 0]])
    on = (ids != 0).long()
    inputs = {}
    if model.is_encoder_decoder:
        decoder = ids if model.task == "classification" else torch.tensor([[0, 21, 22], [0, 23, 0]])
        counts = torch.tensor([[5], [3]] if model.task == "classification" else [[3], [2]])
        inputs = {
            "decoder_input_ids": decoder,
            "decoder_attention_mask": (torch.arange(decoder.shape[1]) < counts).long(),
        }
    if model.name == "bert":
        inputs = {"token_type_ids": torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])}
    readouts = torch.tensor([[2, 1], [1, -1]])
    targets, foils = torch.tensor([[11, 12], [13, 0]]), torch.tensor([[-1, 17], [-1, -1]])
    if model.task == "classification":
        last = model.head.readout == "last"
        readouts = torch.tensor([[4, 4], [2, -1]] if last else [[0, 0], [0, -1]])
        targets, foils = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[-1, 0], [-1, -1]])
    return Question(
        model, Batch(ids, on, **inputs), readouts, targets, foils, Settings(side=side, **settings)
    )


def alone(asked, index):
    """One input of a question without its padding."""
    batch = asked.batch
    length = int(batch.attention_mask[index].sum())
    ids = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None:
        ids["token_type_ids"] = batch.token_type_ids
    short = {name: each[index : index + 1, :length] for name, each in ids.items()}
    if batch.decoder_input_ids is not None:
        kept = int(batch.decoder_attention_mask[index].sum())
        for name in ("decoder_input_ids", "decoder_attention_mask"):
            short[name] = getattr(batch, name)[index : index + 1, :kept]
    own = {
        name: getattr(asked, name)[index : index + 1] for name in ("readouts", "targets", "foils")
    }
    return replace(asked, batch=Batch(**short), **own)
