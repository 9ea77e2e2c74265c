"""Write docs/attribution-classes.json: which model classes attribution explains exactly.

Every causal, masked, sequence-classification and sequence-to-sequence class of the installed
transformers is built small with random parameters. Its attributions of texts of different lengths,
alone and in one batch, are compared with the untouched network, called as its users call it: the
prediction and its logits; where a logit is read from another representation than the network reads
(a head over labels, the source of an encoder-decoder), the logit that the network gives when that
representation stands at every position; and the gradient of the network's own logit.

    python -m scripts.attribution_classes            # about ten minutes on one core
    python -m scripts.attribution_classes llama opt  # print these model types, write nothing
"""

import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto

from dynamics import attribute, load_model
from dynamics.attribution.result import Attribution
from dynamics.errors import DynamicsError
from dynamics.models.live_model import Task
from scripts.small_models import ModelClass, V, classes_of, small_model, time_limit

RESULTS = Path(__file__).parents[1] / "docs" / "attribution-classes.json"
METHODS = ("normxlogit", "gradient_norm")  # one through the head, one through the whole network
TASKS: dict[Task, Mapping[Any, Any]] = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}
_SECONDS = 120  # for one class
_TOLERANCE = 5e-4  # of the largest number that is compared


def model_classes(task: Task) -> list[ModelClass]:
    """Every class of one task, sorted."""
    return classes_of(TASKS[task])


def verdicts(model_class: ModelClass, task: Task) -> dict[str, str]:
    """Compare the attributions of one class with its untouched network.

    Returns:
        For each method of `METHODS` `exact`, `refused: ` and the reason, `wrong: ` and the
        difference, or `not built: ` and the error that the class raises by itself.
    """
    try:
        with time_limit(_SECONDS):
            network = small_model(
                model_class,
                {"is_decoder": True} if task == "causal" else {},
                labels=3 if task == "classification" else None,
            )
            if task == "seq2seq" and not network.config.is_encoder_decoder:
                task = "causal"  # transformers lists decoders that hear beside encoder-decoders
            untouched = Untouched(network, task)
            for text in untouched.texts:
                untouched.logits(text)
    except Exception as error:
        return dict.fromkeys(METHODS, f"not built: {type(error).__name__}: {_line(error)}")
    return {method: _verdict(untouched, method) for method in METHODS}


class Untouched:
    """A network as its users call it, one text at a time.

    The logits of a head over labels for a representation are those of an input with this
    representation at all positions, whichever of them is read; likewise those of the decoder's
    head for the source of an encoder-decoder.

    Args:
        network: The network.
        task: Kind of prediction of its head.

    Attributes:
        tokenizer: Tokenizer with a word for each row of the embedding without a special token.
        texts: Inputs of different lengths, without special tokens that the task does not need.
    """

    def __init__(self, network: PreTrainedModel, task: Task) -> None:
        self.network = network
        self.task: Task = task
        self.start = getattr(network.config, "decoder_start_token_id", None)
        if self.start is None:
            self.start = network.config.decoder_start_token_id = 1
        self.tokenizer = _tokenizer(network)
        last = "<mask>" if task == "masked" else "w35"
        self.texts = ["w10 w11 w12", "w20 w21", "w30 w31 w32 w33 w34"]
        self.texts = [f"{text} {last}" for text in self.texts]

    def inputs(self, text: str) -> dict[str, Any]:
        """Tokenise a text, with the first token of the decoder."""
        inputs: dict[str, Any] = {
            "input_ids": self.tokenizer(text, return_tensors="pt")["input_ids"]
        }
        if self.task == "seq2seq":
            inputs["decoder_input_ids"] = torch.tensor([[self.start]])
        if "use_cache" in inspect.signature(self.network.forward).parameters:
            inputs["use_cache"] = False
        return inputs

    @torch.no_grad()
    def logits(self, text: str) -> Tensor:
        """Logits of the labels of a text, or of each position over the vocabulary."""
        return self.network(**self.inputs(text)).logits[0]

    @torch.no_grad()
    def logits_of_each(self, text: str) -> Tensor:
        """Logits for each scored position, as if its representation were the one read out."""
        if self.task != "classification" and not self.network.config.is_encoder_decoder:
            return self.logits(text)
        inputs = self.inputs(text)
        read = self._states(inputs, decoder=True)
        states = read
        if self.network.config.is_encoder_decoder:
            states = self._states(inputs, decoder=False)
        rows = []
        for state in states[0]:
            repeated = state.expand_as(read).clone()
            with self._replaced(read, repeated) as replaced:
                logits = self.network(**inputs).logits[0]
            assert replaced, "no module returns the final representations"
            rows.append(logits if self.task == "classification" else logits[0])
        return torch.stack(rows)

    def gradient_norms(self, text: str, column: int, position: int) -> Tensor:
        """Norm of the gradient of the network's own logit by each position's input embedding."""
        leaves: list[Tensor] = []

        def leaf(_: nn.Module, __: Any, output: Any) -> Any:
            if leaves:  # the decoder's call, where both sides share the matrix
                return None
            looked_up = output[0] if isinstance(output, tuple) else output
            leaves.append(looked_up.detach().requires_grad_())
            copied = leaves[0].clone()  # some networks scale it in place
            return (copied, *output[1:]) if isinstance(output, tuple) else copied

        handle = self._embedding.register_forward_hook(leaf)
        try:
            logits = self.network(**self.inputs(text)).logits[0]
        finally:
            handle.remove()
        logit = logits[column] if self.task == "classification" else logits[position, column]
        (gradient,) = torch.autograd.grad(logit, leaves[0])
        tokens = self.inputs(text)["input_ids"].shape[1]  # a window may be filled behind them
        gradient = gradient.transpose(0, 1) if len(gradient) != 1 else gradient
        return gradient[0, :tokens].norm(dim=-1)

    @torch.no_grad()
    def embedding_norms(self, text: str) -> list[Tensor]:
        """Candidates for the norms of the first block's input at each position.

        It is the first of the network's hidden states; some networks list those behind the blocks
        only, and the input of their first block are the looked-up rows.
        """
        inputs = self.inputs(text)
        network = self.network
        if network.config.is_encoder_decoder:
            network = network.get_encoder()
            inputs = {"input_ids": inputs["input_ids"]}
        states = network(**inputs, output_hidden_states=True, return_dict=True).hidden_states[0]
        looked_up = _hidden_states(self._embedding(inputs["input_ids"]))
        assert looked_up is not None
        tokens = inputs["input_ids"].shape[1]  # a window may be filled behind them
        return [vectors[0, :tokens].norm(dim=-1) for vectors in (states, looked_up)]

    @property
    def _embedding(self) -> nn.Module:
        if self.network.config.is_encoder_decoder:
            return self.network.get_encoder().get_input_embeddings()
        return self.network.get_input_embeddings()

    def _states(self, inputs: Mapping[str, Tensor], *, decoder: bool) -> Tensor:
        """Return the last hidden states, of the decoder or the encoder in an encoder-decoder."""
        network: Any = self.network
        if network.config.is_encoder_decoder:
            network = network.get_decoder() if decoder else network.get_encoder()
        outputs: list[Tensor | None] = []
        handle = getattr(network, "base_model", network).register_forward_hook(
            lambda _, __, output: outputs.append(_hidden_states(output))
        )
        try:
            self.network(**inputs)
        finally:
            handle.remove()
        assert outputs and outputs[0] is not None
        return outputs[0]

    @contextmanager
    def _replaced(self, states: Tensor, new_states: Tensor) -> Iterator[list[nn.Module]]:
        """Let the module that first returns `states` return other representations."""
        replaced: list[nn.Module] = []

        def replace(module: nn.Module, _: Any, output: Any) -> Any:
            output_states = _hidden_states(output)
            if replaced or output_states is None or output_states.shape != states.shape:
                return None
            if not torch.equal(output_states, states):
                return None
            replaced.append(module)
            if isinstance(output, Tensor):
                return new_states
            if isinstance(output, tuple):
                items = (new_states, *output[1:])
                return type(output)(*items) if hasattr(output, "_fields") else items
            output["last_hidden_state"] = new_states
            return output

        handles = [module.register_forward_hook(replace) for module in self.network.modules()]
        try:
            yield replaced
        finally:
            for handle in handles:
                handle.remove()


def _hidden_states(output: Any) -> Tensor | None:
    if isinstance(output, tuple) and output:
        output = output[0]
    output = getattr(output, "last_hidden_state", output)
    return output if isinstance(output, Tensor) else None


def _tokenizer(network: PreTrainedModel) -> PreTrainedTokenizerFast:
    try:
        embedding: Any = network.get_input_embeddings()
        size = min(V, len(embedding.weight))
    except (NotImplementedError, AttributeError):  # it has no matrix with a row for each token
        size = V
    config = network.config.get_text_config()
    special = {"mask": size - 1}
    for name in ("pad", "bos", "eos"):
        token = getattr(config, f"{name}_token_id", None)
        token = token[0] if isinstance(token, list) else token
        if token is not None and 0 <= token < size - 1:
            special[name] = token
    vocabulary = {f"w{token}": token for token in range(size)}
    for name, token in special.items():
        vocabulary = {word: i for word, i in vocabulary.items() if i != token}
        vocabulary[f"<{name}>"] = token
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w9"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if "eos" in special and network.config.is_encoder_decoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", special["eos"])]
        )
    names = {f"{name}_token": f"<{name}>" for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _verdict(untouched: Untouched, method: str) -> str:
    try:
        with time_limit(_SECONDS):
            model = load_model(
                untouched.network, tokenizer=untouched.tokenizer, task=untouched.task
            )
            together = list(attribute(model, untouched.texts, method=method))
            for text, batched in zip(untouched.texts, together, strict=True):
                (single,) = attribute(model, text, method=method)
                for attribution, context in ((single, "alone"), (batched, "in a batch")):
                    if fault := _fault(untouched, text, attribution):
                        return f"wrong: {context}: {fault}"
    except DynamicsError as error:
        return f"refused: {_line(error)}"
    except Exception as error:
        return f"wrong: raises {type(error).__name__}: {_line(error)}"
    return "exact"


def _fault(untouched: Untouched, text: str, attribution: Attribution) -> str | None:
    """Return the first difference of an attribution from the untouched network, None without."""
    logits = untouched.logits(text)
    (target,) = attribution.targets
    tokens = untouched.inputs(text)["input_ids"][0].tolist()
    if list(attribution.token_ids) != tokens:
        return "other tokens"
    position = {
        "causal": len(tokens) - 1, "seq2seq": 0, "masked": target.position, "classification": 0
    }[untouched.task]  # fmt: skip
    logits = logits if untouched.task == "classification" else logits[position]
    if float(logits.max() - logits[target.token_id]) > _TOLERANCE * float(logits.abs().max()):
        return f"explains column {target.token_id}, the network predicts {int(logits.argmax())}"
    scores = torch.tensor(attribution.scores[:, 0])
    if attribution.method == "gradient_norm":
        expected = untouched.gradient_norms(text, target.token_id, position)
        return _difference("gradient norms", scores, expected)
    assert attribution.norm is not None and attribution.logit is not None
    expected = untouched.logits_of_each(text)[:, target.token_id]
    candidates = untouched.embedding_norms(text)
    norm = torch.tensor(attribution.norm)
    return (
        _difference("logits", torch.tensor(attribution.logit[:, 0]), expected)
        or min((_difference("norms", norm, candidate) or "" for candidate in candidates), key=len)
        or _difference("scores", scores, norm * expected)
    )


def _difference(name: str, actual: Tensor, expected: Tensor) -> str | None:
    expected = expected.detach().double()
    error = (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    return None if error <= _TOLERANCE else f"{name} differ by {float(error):.1%}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def main(only: list[str]) -> None:
    """Compare every class and write the results, or print those of some model types."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    lines = []
    for task in TASKS:
        for model_class in model_classes(task):
            if only and model_class.model_type not in only:
                continue
            record = {"task": task, "model_type": model_class.model_type, "class": model_class.name}
            lines.append(json.dumps(record | verdicts(model_class, task)))
            print(lines[-1], flush=True)
    if not only:
        RESULTS.write_text(
            f'{{"transformers": "{transformers.__version__}",\n"classes": [\n'
            + ",\n".join(lines)
            + "\n]}\n",
            "utf-8",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
