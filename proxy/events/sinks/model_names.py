"""The limit of model names that the ledger keeps apart in an hour.

A model is the name that the upstream reports, and some upstreams repeat any name they are sent.
Each name makes a row, and a report has at most some thousands of rows: without a limit one access
token could make the reports of all projects unreadable.
"""

from collections import OrderedDict
from datetime import datetime
from typing import Final

#: The model of the row that stands for all names beyond the limits.
OTHER: Final = "other"
#: Maximum names in an hour.
MAX_PER_TOKEN: Final = 32
MAX_PER_PROJECT: Final = 128
#: Hours whose names are remembered: events of long responses belong to earlier hours.
_HOURS: Final = 26


class ModelNames:
    """One per sink. It is kept in memory, so each start allows as many names again."""

    def __init__(self) -> None:
        # By hour, the oldest first: access token or project → its names.
        self._hours: OrderedDict[datetime, dict[str, set[str]]] = OrderedDict()

    def bounded(self, hour: datetime, project_id: str, token_id: str, model: str) -> str:
        """Returns `model`, or :data:`OTHER` where its token or project has too many names."""
        if not model:
            return model
        accounts = self._hours.get(hour)
        if accounts is None:
            accounts = self._hours[hour] = {}
            if len(self._hours) > _HOURS:
                self._hours.popitem(last=False)
        of_token = accounts.setdefault(token_id, set())
        if model in of_token:
            return model
        of_project = accounts.setdefault(project_id, set())
        if len(of_token) >= MAX_PER_TOKEN:
            return OTHER
        if model not in of_project and len(of_project) >= MAX_PER_PROJECT:
            return OTHER
        of_token.add(model)
        of_project.add(model)
        return model
