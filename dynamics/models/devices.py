"""The device that weights are measured and models are run on."""

import torch

from dynamics.errors import ConfigError, message_of


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device of torch; `auto` is cuda where there is one, else cpu.

    Raises:
        ConfigError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {str(name)!r} cannot be used: {message_of(error)}; cpu always can"
        ) from error
    return device
