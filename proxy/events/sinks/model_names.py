"""How many models of an hour the ledger tells apart.

A model is what the upstream calls itself, and there are upstreams that repeat whatever name they
are sent. Each name makes a row, and a report has at most some thousands of them: without a bound
one access token could keep everybody from reading what was used.
"""

from collections import OrderedDict
from datetime import datetime
from typing import Final

#: The model of a row that stands for all names beyond the bounds.
OTHER: Final = "other"
#: Names in an hour.
MAX_PER_TOKEN: Final = 32
MAX_PER_PROJECT: Final = 128
#: Hours of which names are remembered: events of long responses belong to earlier ones.
_HOURS: Final = 26


class ModelNames:
    """One per sink. It forgets with its process; so each start allows as many names again."""

    def __init__(self) -> None:
        # By hour, the oldest first: access token or project → its names.
        self._hours: OrderedDict[datetime, dict[str, set[str]]] = OrderedDict()

    def bounded(self, hour: datetime, project_id: str, token_id: str, model: str) -> str:
        """``model``; or :data:`OTHER`, where its token or project has had too many already."""
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
