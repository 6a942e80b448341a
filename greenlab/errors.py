"""The errors that greenlab raises for its users.

Each message says what is wrong, names the configuration key, and ends with the way out. Bugs are
not GreenlabErrors: they surface as whatever Python raises.
"""

import re


class GreenlabError(Exception):
    """Something that the user can put right; the message says how, without any password."""

    def __str__(self) -> str:
        """What to print: messages quote the command line, which may hold an address with one."""
        said = super().__str__()
        return without_password(said) or said


class ConfigError(GreenlabError):
    """A setting has a value that makes no sense."""


class HardwareMismatchError(GreenlabError):
    """The hardware that the configuration names is not the hardware that is here."""


class MeterUnavailableError(GreenlabError):
    """An energy source that was asked for cannot be read."""


class MeterReadError(GreenlabError):
    """A counter that was readable at the start failed while it was being metered."""


class PowerLimitError(GreenlabError):
    """A power limit that was asked for cannot be set here, or did not hold."""


class DataUnavailableError(GreenlabError):
    """A data set is not on this machine and cannot be fetched, or is too small."""


class ModelError(GreenlabError):
    """A model cannot be built, or does not fit the data."""


class LossNotFiniteError(GreenlabError):
    """A model has diverged: there is no use in going on."""

    def __init__(self, number: int, loss: float) -> None:
        super().__init__(
            f"the loss of pass {number} is {loss}. Lower phase.learning_rate; in inference, the "
            "model's own weights give no number"
        )


class StoreUnavailableError(GreenlabError):
    """The MLflow store cannot be opened."""


class OutputError(GreenlabError):
    """A folder for results cannot be written."""


class LockUnavailableError(GreenlabError):
    """The lock for one measurement at a time cannot be taken where it should be."""


class MachineBusyError(GreenlabError):
    """Another greenlab measures on this machine, and is not to be waited for."""


class NodeRefusedError(GreenlabError):
    """A machine of a cluster is not what the cells need."""


_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):([^\s@]+)@")
_PASSWORD_SETTING = re.compile(r"([?&](?:ssl)?password=)[^&\s]+")


def first_line(error: BaseException) -> str:
    """What an error says in one line, without passwords; the name of its kind if it says nothing.

    It is printed and kept, and MLflow's errors quote the address that they failed at.
    """
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return without_password(said) or said


def without_password(text: str | None) -> str | None:
    """Blank out a password in a URL."""
    return text and _PASSWORD_SETTING.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))
