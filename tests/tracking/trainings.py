"""Trainings with transformers.Trainer that take a fraction of a second, with dropout."""

import numpy as np
import torch
import transformers as hf

from tests.tracking.synthetic import VOCABULARY

STEPS, ROWS, POSITIONS = 8, 4, 12
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1}
SHAPE |= {"num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
MODELS = {
    "gpt_neox": lambda tied: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(**SHAPE, **ENDS, hidden_dropout=0.2, tie_word_embeddings=tied)
    ),
    "llama": lambda tied: hf.LlamaForCausalLM(
        hf.LlamaConfig(**SHAPE, attention_dropout=0.2, tie_word_embeddings=tied)
    ),
    "gemma": lambda tied: hf.GemmaForCausalLM(
        hf.GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=8, tie_word_embeddings=tied)
    ),
    "bert": lambda tied: hf.BertForMaskedLM(
        hf.BertConfig(**SHAPE, hidden_dropout_prob=0.2, tie_word_embeddings=tied)
    ),
}


def build(name="llama", tied=False):
    torch.manual_seed(0)
    return MODELS[name](tied)


def examples():
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS * STEPS, POSITIONS))
    return [{"input_ids": row, "labels": row} for row in torch.from_numpy(ids)]


def trainer(folder, *callbacks, model=None, trainer_class=hf.Trainer, **settings):
    settings = {"max_steps": STEPS, "save_strategy": "no", "report_to": "none"} | settings
    arguments = hf.TrainingArguments(
        str(folder),
        per_device_train_batch_size=ROWS,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=3,
        **settings,
    )
    held = examples()
    return trainer_class(
        build() if model is None else model,
        arguments,
        train_dataset=held,
        eval_dataset=held[:ROWS],
        callbacks=list(callbacks),
    )


class Stopped(Exception):
    """What a test stops a training with."""


class StopAfter(hf.TrainerCallback):
    """Ends a training at a step: as a crash, or as early stopping does."""

    def __init__(self, step, crash=True):
        self.step, self.crash = step, crash

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            if self.crash:
                raise Stopped
            control.should_training_stop = True


class At(hf.TrainerCallback):
    """Does something to the model or to the world at the end of a step, or of the training."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, *, model, **kwargs):
        if state.global_step == self.step:
            self.act(model)

    def on_train_end(self, args, state, control, *, model, **kwargs):
        if self.step == "end":
            self.act(model)
