"""NormXLogit and its two factors, from one forward pass without head (arXiv 2411.16252).

B inputs, P positions, T targets.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.question import Question, Scores
from dynamics.errors import ConfigError
from dynamics.models.live_model import Reading
from dynamics.scores import normxlogit as core
from dynamics.scores.logits import logit_attribution
from dynamics.scores.norms import embedding_norm, mean_row

NORM_SOURCES = ("row", "row_centered", "module_output", "layer N")


@torch.no_grad()
def normxlogit(question: Question) -> Scores:
    """The norm of each token's input embedding times the logit that the head gives to it."""
    reading = _read(question)
    norm, logit = _norms(question, reading), _logits(question, reading)
    values = torch.stack([core.normxlogit(*each) for each in zip(norm, logit, strict=True)])
    return Scores(values, norm, logit)


@torch.no_grad()
def logit_only(question: Question) -> Scores:
    """LogAt: the logit that the head gives to each token's representation."""
    logit = _logits(question, _read(question))
    return Scores(logit, logit=logit)


@torch.no_grad()
def norm_only(question: Question) -> Scores:
    """The norm of each token's input embedding, the same for every target."""
    norm = _norms(question, _read(question))
    return Scores(norm[:, :, None].expand(-1, -1, question.targets.shape[1]), norm)


def _read(question: Question) -> Reading:
    return question.read(
        blocks=question.settings.layer is not None or _norm_layer(question) is not None
    )


def _norm_layer(question: Question) -> int | None:
    source = question.settings.norm_source
    if source in NORM_SOURCES[:3]:
        return None
    named = re.fullmatch(r"layer[ _-]?(\d+)", source)
    depth = question.model.stack(question.settings.side).depth
    if named is None or int(named[1]) > depth:
        raise ConfigError(
            f"norm source {source!r} is unknown; it is one of {', '.join(NORM_SOURCES)}, with N "
            f"from 0 to {depth}"
        )
    return int(named[1])


def _norms(question: Question, reading: Reading) -> Float[Tensor, "B P"]:
    source, states = question.settings.norm_source, reading.scored
    layer = _norm_layer(question)
    if layer is not None:
        vectors = (states.embedding, *states.blocks[:-1], states.final)[layer]
    elif source == "module_output":
        vectors = states.embedding
    else:
        weight = question.embedding_matrix
        norms = embedding_norm(
            weight[question.scored_ids.flatten()],
            shift=mean_row(weight) if source == "row_centered" else None,
        )
        return norms.view(question.scored_ids.shape)
    return embedding_norm(vectors.flatten(0, 1)).view(vectors.shape[:2])


def _logits(question: Question, reading: Reading) -> Float[Tensor, "B P T"]:
    settings, model = question.settings, question.model
    states = reading.scored.final
    if settings.layer is not None:
        states = model.stack(settings.side).as_final(reading.scored, settings.layer)
    regression = model.task == "regression"
    read_out = question.read_out(reading.read.final)
    return torch.stack(
        [
            logit_attribution(
                model.head,
                states[index],
                question.targets[index],
                foils=question.foils[index],
                form=question.form,
                reference=read_out[index, 0] if regression else None,
            )
            for index in range(len(states))
        ]
    )
