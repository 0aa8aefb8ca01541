"""What users write: experiments, search spaces and registry policies, as strict frozen models."""

from tunesmith.config.experiment import Experiment
from tunesmith.config.policy import Policy
from tunesmith.config.space import SearchSpace

__all__ = ["Experiment", "Policy", "SearchSpace"]
