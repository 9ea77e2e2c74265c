"""Settings of running the models, with few short names for the numbers of tokens and contexts."""

from dynamics.config import TrackingSettings
from dynamics.settings_files import validate


def probe_settings(
    *, tokens_per_stratum=40, contexts=16, length=64, importance=("surprisal",), tokens=(),
    strata=10, seed=0, text=None, **changes,
):  # fmt: skip
    """Settings of tracking that probe tokens; a mistake in them is a ConfigError."""
    probe = {"text": text, "tokens": list(tokens), "strata": strata, "seed": seed}
    content = {
        "importance": list(importance),
        "probe_tokens_per_stratum": tokens_per_stratum,
        "contexts": contexts,
        "context_length": length,
        "device": "cpu",
        "probe": probe,
    }
    return validate(TrackingSettings, content | changes, "settings")
