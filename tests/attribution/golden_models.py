"""The models whose parameters are filled by rule, so that numbers of others can be compared.

Names from `named_parameters()`, sorted; for the k-th tensor and flat index i the value is
v = ((7919 i + 31 i^2 + 104729 k) % 1000) / 500 - 1: norm weights are 1 + .1 v, everything else
.3 v. Tables of positions have more rows than the models that the numbers were computed on, which
changes none of the rows that are used.
"""

from functools import cache

import torch
import transformers as hf

from dynamics.attribution.batch import AttributionBatch
from dynamics.attribution.settings import AttributionSettings
from dynamics.models.live_model import Batch, LiveModel
from tests.models import tiny

IDS = torch.tensor([[1, 4, 7, 2, 9]])
_MODELS = {
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=11, n_embd=8, n_layer=3, n_head=2, n_positions=16, bos_token_id=0,
            eos_token_id=0,
        )
    ),
    "llama": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=24, max_position_embeddings=16,
            tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        )
    ),
    "bert": lambda: hf.BertForMaskedLM(
        hf.BertConfig(
            vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=16,
        )
    ),
}  # fmt: skip
# Number of tensors, and the logit of a token at a position, which tell a wrong filling.
CHECKS = {
    "gpt2": (40, 4, 3, 0.684541),
    "llama": (21, 4, 3, 0.715189),
    "bert": (42, 2, 1, 0.235430),
}


@cache
def golden_model(name):
    network = _MODELS[name]().double().eval()
    named = sorted(network.named_parameters())
    with torch.no_grad():
        for k, (parameter_name, weight) in enumerate(named):
            i = torch.arange(weight.numel())
            v = ((7919 * i + 31 * i**2 + 104729 * k) % 1000).double() / 500 - 1
            is_norm = parameter_name.endswith("weight") and weight.dim() == 1
            weight.copy_((1 + 0.1 * v if is_norm else 0.3 * v).view(weight.shape))
    tensors, position, token, logit = CHECKS[name]
    assert len(named) == tensors
    found = network(IDS).logits[0, position, token].item()
    assert abs(found - logit) < 1e-6, "transformers fills or computes this model in another way"
    task = "masked" if name == "bert" else "causal"
    return LiveModel(network, tiny.tokenizer(name), task, f"golden {name}")


def golden_batch(name, *, target=None, foil=-1, **settings):
    """The input of the golden numbers, with one target at the position of the check."""
    _, position, token, _ = CHECKS[name]
    inputs = Batch(IDS, torch.ones_like(IDS), torch.zeros_like(IDS) if name == "bert" else None)
    numbers = (position, token if target is None else target, foil)
    readout, target_id, foil_id = (torch.tensor([[number]]) for number in numbers)
    return AttributionBatch(
        golden_model(name), inputs, readout, target_id, foil_id, AttributionSettings(**settings)
    )


def assert_golden(found, expected):
    """Compare with the digits that are printed: six."""
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6
    )
