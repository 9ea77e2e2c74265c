"""NormXLogit and its two factors, from one forward pass without head (arXiv 2411.16252).

B inputs, P positions, T targets.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.attribution.batch import AttributionBatch, Scores
from dynamics.attribution.settings import NORM_SOURCES
from dynamics.errors import ConfigError
from dynamics.models.live_model import Reading
from dynamics.scores import normxlogit as core
from dynamics.scores.logits import logit_attribution
from dynamics.scores.norms import embedding_norm, mean_row


@torch.no_grad()
def normxlogit(batch: AttributionBatch) -> Scores:
    """The norm of each token's input embedding times the logit that the head gives to it."""
    reading = _read(batch)
    norm, logit = _norms(batch, reading), _logits(batch, reading)
    values = torch.stack([core.normxlogit(*factors) for factors in zip(norm, logit, strict=True)])
    return Scores(values, norm, logit)


@torch.no_grad()
def logit_only(batch: AttributionBatch) -> Scores:
    """LogAt: the logit that the head gives to each token's representation."""
    logit = _logits(batch, _read(batch))
    return Scores(logit, logit=logit)


@torch.no_grad()
def norm_only(batch: AttributionBatch) -> Scores:
    """The norm of each token's input embedding, the same for every target."""
    norm = _norms(batch, _read(batch))
    return Scores(norm[:, :, None].expand(-1, -1, batch.targets.shape[1]), norm)


def _read(batch: AttributionBatch) -> Reading:
    """Run the model once; outputs of blocks are recorded where the settings name a layer."""
    return batch.read(blocks=batch.settings.layer is not None or _norm_layer(batch) is not None)


def _norm_layer(batch: AttributionBatch) -> int | None:
    """Return N of the norm source `layer N`, None for the other sources.

    Raises:
        ConfigError: There is no such source, or the model has fewer blocks.
    """
    source = batch.settings.norm_source
    if source in NORM_SOURCES[:3]:
        return None
    match = re.fullmatch(r"layer[ _-]?(\d+)", source)
    depth = batch.model.stack(batch.settings.side).depth
    if match is None or int(match[1]) > depth:
        raise ConfigError(
            f"norm source {source!r} is unknown; it is one of {', '.join(NORM_SOURCES)}, with N "
            f"from 0 to {depth}"
        )
    return int(match[1])


def _norms(batch: AttributionBatch, reading: Reading) -> Float[Tensor, "B P"]:
    """Return the L2 norm of the vector that the norm source takes for each scored position."""
    source, states = batch.settings.norm_source, reading.scored
    layer = _norm_layer(batch)
    if layer is not None:
        # The last layer is read behind the final norm, as hidden states of transformers are.
        vectors = (states.embedding, *states.blocks[:-1], states.final)[layer]
    elif source == "module_output":
        vectors = states.embedding
    else:
        weight = batch.embedding_matrix
        norms = embedding_norm(
            weight[batch.scored_ids.flatten()],
            shift=mean_row(weight) if source == "row_centered" else None,
        )
        return norms.view(batch.scored_ids.shape)
    return embedding_norm(vectors.flatten(0, 1)).view(vectors.shape[:2])


def _logits(batch: AttributionBatch, reading: Reading) -> Float[Tensor, "B P T"]:
    """Return LogAt: the logit of each target that the head gives to each position."""
    settings, model = batch.settings, batch.model
    states = reading.scored.final
    if settings.layer is not None:
        states = model.stack(settings.side).as_final(reading.scored, settings.layer)
    regression = model.task == "regression"
    read_out = batch.read_out(reading.read.final)
    return torch.stack(
        [
            logit_attribution(
                model.head,
                states[index],
                batch.targets[index],
                foils=batch.foils[index],
                form=batch.form,
                reference=read_out[index, 0] if regression else None,
            )
            for index in range(len(states))
        ]
    )
