"""Everything that can go wrong in a way the user can mend, each with one clear line.

The command line prints the message of a `TunesmithError` without a traceback and exits with its
`exit_code`: 2 for bad input, 1 for an outcome that was refused or failed.
"""


class TunesmithError(Exception):
    """Base of all errors that the command line reports as one line."""

    exit_code = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; like Ctrl-C, it ends the work and closes its runs."""


class ConfigError(TunesmithError, ValueError):
    """An experiment, search space, policy or option is wrong."""


class DataError(TunesmithError, ValueError):
    """A data file is missing, broken or of the wrong shape."""


class ModelError(TunesmithError, ValueError):
    """A model reference cannot be resolved, or its files are not what they should be."""


class DeviceError(TunesmithError, RuntimeError):
    """The asked-for device or precision is not there."""


class TrackingError(TunesmithError, RuntimeError):
    """The tracking store cannot be reached or is not ours."""


class StudyError(TunesmithError, ValueError):
    """A sweep's study cannot be created, resumed or continued as asked."""


class OutcomeError(TunesmithError, RuntimeError):
    """The work was done but its outcome is a refusal or a failure."""

    exit_code = 1


class SupersededError(OutcomeError):
    """Another process has taken over what this one did; it must write nothing more."""


class TrainingError(OutcomeError):
    """Training stopped: a non-finite loss, or memory that ran out."""


class StartError(TrainingError):
    """A training cannot begin with the weights of another: there are none, or they do not fit."""


class DiskError(OutcomeError):
    """A file could not be written; what was there before is untouched."""


class EvaluationError(OutcomeError):
    """Scores would be meaningless: an adapter without effect, or items missing."""


class RegistryError(OutcomeError):
    """A package failed verification, or an alias could not be moved."""
