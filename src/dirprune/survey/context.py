"""The context of a running survey, which all its parts receive."""

from dataclasses import dataclass

from dirprune.survey.config import SurveyConfig
from dirprune.survey.display import SurveyDisplay
from dirprune.survey.networks import Network, Subject
from dirprune.survey.record import Record


@dataclass(frozen=True)
class SurveyContext:
    """What a survey measures, how finely, and where the figures go.

    Attributes:
        subject: The runs, their model and their data.
        networks: The runs and the controls, dense and sparse first.
        config: The options, fitted into the budget.
        record: Holds the figures.
        display: Shows progress.
    """

    subject: Subject
    networks: list[Network]
    config: SurveyConfig
    record: Record
    display: SurveyDisplay
