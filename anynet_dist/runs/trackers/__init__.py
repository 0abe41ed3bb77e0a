"""Weights & Biases, TensorBoard and other trackers: views of the log that cannot harm a run."""

from anynet_dist.runs.trackers.base import Outcome, RunFacts
from anynet_dist.runs.trackers.group import Trackers, check_trackers
from anynet_dist.runs.trackers.register import register_tracker

__all__ = ["Outcome", "RunFacts", "Trackers", "check_trackers", "register_tracker"]
