"""Settings of information gain, and of counting with it."""

from dataclasses import dataclass

from dynamics.errors import ConfigError
from dynamics.settings_files import Settings, settings_model

_PAIRS_PER_WINDOW = 8
"""Pairs that nearly all tokens have left of 10 windows, after losses at the ends of words and
documents; tokens that occur ten times are the rarest in correlations by default."""


@dataclass(frozen=True)
class InformationSettings:
    """Settings of information gain.

    Attributes:
        window: Tokens to each side.
        pairs: m, pairs of every token in the columns that are compared across frequency; a token
            with fewer is NaN there. None takes 8 windows.
        oyama: Count the symmetric window of Oyama et al. as well, with both of its corrections.
        shuffles: R, number of shuffled corpora that correct the symmetric window.
        seed: Seed of the shuffles; nothing else is random.

    Raises:
        ConfigError: A number is too small.
    """

    window: int = 10
    pairs: int | None = None
    oyama: bool = False
    shuffles: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("pairs", 2), ("shuffles", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"the {name} of information gain is {value}; give {least} or more"
                )

    @property
    def equal_pairs(self) -> int:
        """m: `pairs`, or its default of 8 windows."""
        return _PAIRS_PER_WINDOW * self.window if self.pairs is None else self.pairs


class InformationGainSettings(settings_model(InformationSettings)):
    """Settings of information gain, and of the rows it is counted in.

    Attributes:
        contiguous: Rows of a third-party stream are consecutive text (nanoGPT, OLMo), so pairs may
            cross row ends.
    """

    contiguous: bool = False

    def of_columns(self) -> InformationSettings:
        """Return the settings of the columns.

        Raises:
            ConfigError: A number is too small.
        """
        return InformationSettings(**self.model_dump(exclude={"contiguous"}))


class CountSettings(Settings):
    """Settings of counting.

    Attributes:
        information: Settings of --information-gain.
    """

    information: InformationGainSettings = InformationGainSettings()
