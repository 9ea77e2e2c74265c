"""Importances: one number for each context of a probed token, from passes of the model.

N contexts, T tokens that are probed, V tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dynamics.attribution.methods import METHODS
from dynamics.errors import ConfigError, MeasureError, did_you_mean
from dynamics.importance.passes import InputRows, Passes
from dynamics.importance.probes import ProbeSet, half_means
from dynamics.models.live_model import LiveModel

IDS_AT_ONCE = 4096  # token ids that run together
Values = Float[Tensor, " N"]


@dataclass(frozen=True)
class Importance:
    """An importance measure.

    Attributes:
        function: Returns one value for each context.
        passes: Names of the forward passes over a context that it needs in a causal LM; passes of
            the same name are shared.
        tasks: Tasks of the models that it fits.
        method: Name in `METHODS` of the attribution that it is the mean of, None for others.
    """

    function: Callable[[Passes], Values]
    passes: tuple[str, ...]
    tasks: tuple[str, ...] = ("causal", "masked")
    method: str | None = None


def occlusion(passes: Passes) -> Values:
    """KL in nats of the next prediction from that with the mean row in place of the token's."""
    return passes.divergence(passes.clean, passes.occluded, passes.next)


def occlusion_loss(passes: Passes) -> Values:
    """Rise of the next token's loss in nats without the token; negative if the token misleads."""
    target = passes.ids[passes.context_index, passes.positions + 1]
    loss, occluded_loss = (
        passes.surprisal(states, passes.next, target) for states in (passes.clean, passes.occluded)
    )
    return occluded_loss - loss


def occlusion_later(passes: Passes) -> Values:
    """`occlusion` summed over the predictions of the next and all later tokens of the context."""
    return _sum_later(passes, passes.clean, passes.occluded)


def occlusion_norm_matched(passes: Passes) -> Values:
    """KL in nats when another token's row replaces the token's, with all input rows of one norm."""
    return passes.divergence(passes.equalized, passes.exchanged, passes.next)


def occlusion_norm_matched_later(passes: Passes) -> Values:
    """KL as in `occlusion_norm_matched`, summed over the next and all later predictions."""
    return _sum_later(passes, passes.equalized, passes.exchanged)


def surprisal(passes: Passes) -> Values:
    """-log probability in nats of the token in its own place."""
    target = passes.ids[passes.context_index, passes.positions]
    if passes.masks:
        return passes.surprisal(
            passes.self_masked, (passes.context_index, passes.positions), target
        )
    return passes.surprisal(passes.clean, (passes.context_index, passes.positions - 1), target)


def _sum_later(passes: Passes, clean: Tensor, changed: Tensor) -> Values:
    """Sum the divergences over the later positions of each context."""
    divergences = passes.divergence(clean, changed, passes.later)
    total = divergences.new_zeros(len(passes.ids), dtype=torch.float64)
    return total.index_add(0, passes.later[0], divergences.double())


def _attribution(method: str, passes: Passes) -> Values:
    """Absolute score of the token by a method of attribution."""
    return passes.attributed(method).values[passes.context_index, passes.positions, 0].abs()


def _norm_factor(passes: Passes) -> Values:
    """Norm that NormXLogit multiplies, of the token's input row."""
    norm = passes.attributed("normxlogit").norm
    assert norm is not None
    return norm[passes.context_index, passes.positions]


def _logit_factor(passes: Passes) -> Values:
    """Absolute logit that NormXLogit multiplies."""
    logit = passes.attributed("normxlogit").logit
    assert logit is not None
    return logit[passes.context_index, passes.positions, 0].abs()


_CAUSAL = ("causal",)
_OCCLUDED, _EXCHANGED = ("clean", "occluded"), ("equalized", "exchanged")

IMPORTANCES: dict[str, Importance] = {
    "occlusion": Importance(occlusion, _OCCLUDED),
    "occlusion_loss": Importance(occlusion_loss, _OCCLUDED),
    "occlusion_later": Importance(occlusion_later, _OCCLUDED, _CAUSAL),
    "occlusion_norm_matched": Importance(occlusion_norm_matched, _EXCHANGED),
    "occlusion_norm_matched_later": Importance(occlusion_norm_matched_later, _EXCHANGED, _CAUSAL),
    "surprisal": Importance(surprisal, ("clean",)),
    **{
        f"attribution_{name}": Importance(
            partial(_attribution, name),
            # What a head answers is shared; other methods run the network themselves.
            ("attributed", *([name] if method.runs_network else [])),
            method=name,
        )
        for name, method in METHODS.items()
    },
    "attribution_normxlogit_norm": Importance(_norm_factor, ("attributed",), method="normxlogit"),
    "attribution_normxlogit_logit": Importance(_logit_factor, ("attributed",), method="normxlogit"),
}
"""Every importance by name; those of attribution are the mean absolute score of the token for the
model's own prediction at the end of the context."""

DEFAULT_METHODS = ("normxlogit", "gradient_x_input")
"""Methods of attribution that `all` includes."""


def check_importances(names: Iterable[str]) -> None:
    """Refuse names that no importance has, before a model is loaded.

    Raises:
        ConfigError: There is no such importance.
    """
    for name in names:
        if name != "all" and name not in IMPORTANCES:
            raise ConfigError(
                f"there is no importance {name!r}; {did_you_mean(name, (*IMPORTANCES, 'all'))}"
            )


def choose_importances(names: Sequence[str], model: LiveModel | None = None) -> list[str]:
    """Expand `all` and NormXLogit; return the names in the order of `IMPORTANCES`.

    Args:
        names: Names; `all` stands for the importances that fit the model, of attribution
            NormXLogit and Gradient x Input. NormXLogit comes with its factors.
        model: The model; None to return all names that `all` can stand for.

    Raises:
        ConfigError: There is no such importance, or a named one does not fit the model.
    """
    check_importances(names)
    selected = set(names)
    if "attribution_normxlogit" in selected:
        selected |= {
            name for name, importance in IMPORTANCES.items() if importance.method == "normxlogit"
        }
    for name, importance in IMPORTANCES.items():
        misfit = None if model is None else _misfit(importance, model)
        if misfit and name in selected:
            raise ConfigError(f"{name} does not fit {model and model.name}: {misfit}")
        if "all" in selected and not misfit and importance.method in (None, *DEFAULT_METHODS):
            selected.add(name)
    if model is not None and selected == {"all"}:
        raise ConfigError(f"no importance fits {model.name}, whose task is {model.task}")
    return [name for name in IMPORTANCES if name in selected]


def forwards_per_context(names: Sequence[str], length: int) -> int:
    """Number of forward passes over a context that importances need together in a causal LM.

    A masked LM needs one more for surprisal. Integrated gradients count as converged after their
    first 50 steps. Backward passes are not counted.

    Args:
        names: Names, as in `choose_importances`.
        length: Ids of a context.
    """
    passes = {key for name in choose_importances(names) for key in IMPORTANCES[name].passes}
    return sum(METHODS[key].passes(length) if key in METHODS else 1 for key in passes)


@torch.no_grad()
def measure_contexts(
    model: LiveModel,
    probes: ProbeSet,
    names: Sequence[str],
    counts: Integer[np.ndarray, " V"] | None = None,
    entries: Bool[np.ndarray, " V"] | None = None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """Importances of the probed token in each context, in float64.

    Args:
        model: A causal or a masked LM.
        probes: The contexts.
        names: As in `choose_importances`.
        counts: Occurrences of each token, for attribution by frequency.
        entries: Mask of the embedding rows in the mean row and the mean norm: those with an entry
            in the tokenizer, and their twins; all when None.

    Raises:
        ConfigError: An importance does not fit the model, or needs counts.
        MeasureError: An importance is not finite.
    """
    names = choose_importances(names, model)
    rows = InputRows(model, entries)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    contexts_at_once = max(1, IDS_AT_ONCE // probes.length)
    chunks = (
        torch.tensor(array, device=model.device).split(contexts_at_once)
        for array in (probes.ids, probes.positions, probes.replacements)
    )
    for ids, positions, replacements in zip(*chunks, strict=True):
        passes = Passes(model, rows, ids, positions, replacements, counts)
        for name in names:
            values = IMPORTANCES[name].function(passes).double()
            if not values.isfinite().all():
                raise MeasureError(
                    f"{name} of {model.name} is not finite; its weights or its dtype are at fault"
                )
            parts[name].append(values.numpy(force=True))
    return {name: np.concatenate(values) for name, values in parts.items()}


def measure_importances(
    model: LiveModel,
    probes: ProbeSet,
    names: Sequence[str],
    counts: Integer[np.ndarray, " V"] | None = None,
    entries: Bool[np.ndarray, " V"] | None = None,
) -> Mapping[str, np.ndarray]:
    """Mean importances of each probed token, as the columns of a table.

    Args:
        model: A causal or a masked LM.
        probes: The contexts.
        names: As in `choose_importances`.
        counts: Occurrences of each token, for attribution by frequency.
        entries: Mask of the embedding rows in the mean row and the mean norm: those with an entry
            in the tokenizer, and their twins; all when None.

    Returns:
        `token_id`, `contexts`, and for each importance its mean over the contexts of the token,
        NAME, and over each half of them, NAME_half_1 and NAME_half_2 (NaN without contexts).

    Raises:
        ConfigError: An importance does not fit the model, or needs counts.
        MeasureError: An importance is not finite.
    """
    tokens, contexts = np.unique(probes.token_ids, return_counts=True)
    columns: dict[str, np.ndarray] = {
        "token_id": tokens.astype(np.int32),
        "contexts": contexts.astype(np.int32),
    }
    for name, values in measure_contexts(model, probes, names, counts, entries).items():
        for suffix, mean in zip(
            ("", "_half_1", "_half_2"),
            half_means(values, probes.token_ids, probes.halves),
            strict=True,
        ):
            columns[name + suffix] = mean
    return columns


def _misfit(importance: Importance, model: LiveModel) -> str | None:
    """Return the reason why an importance does not fit a model, None when it does."""
    if model.task not in importance.tasks:
        return (
            f"it is for {' and '.join(importance.tasks)} language models, the task is {model.task}"
        )
    if model.task == "masked" and model.tokenizer.mask_token_id is None:
        return "its tokenizer has no mask token"
    return importance.method and METHODS[importance.method].refuses(model)
