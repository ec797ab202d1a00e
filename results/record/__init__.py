"""What a study and its trials found, as typed values: the search writes them, whoever shows a study reads them."""

from prunetune.results.record.confirmation import Comparison, Confirmation, ConfirmedNetwork, Interval
from prunetune.results.record.figure import StudiedFigure
from prunetune.results.record.network_result import NetworkFigures, NetworkFiles, NetworkResult
from prunetune.results.record.study import Baseline, StudyRecord
from prunetune.results.record.target import StudiedTarget
from prunetune.results.record.trial import RETRY_OF, RungDecision, TrialRecord

__all__ = [
    "RETRY_OF",
    "Baseline",
    "Comparison",
    "Confirmation",
    "ConfirmedNetwork",
    "Interval",
    "NetworkFigures",
    "NetworkFiles",
    "NetworkResult",
    "RungDecision",
    "StudiedFigure",
    "StudiedTarget",
    "StudyRecord",
    "TrialRecord",
]
