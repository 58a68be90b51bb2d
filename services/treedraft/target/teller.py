"""What the engine has to say to others: outputs to coordinators, commits to drafters."""

from collections.abc import Callable

from treedraft.target.drafting import DraftBook
from treedraft.target.events import EngineNews
from treedraft.target.patience import Patience
from treedraft.target.session_roster import SessionRoster


class Teller:
    """Collects what there is to say and publishes it; used by the engine's thread."""

    def __init__(
        self,
        roster: SessionRoster,
        book: DraftBook,
        patience: Patience,
        publish: Callable[[EngineNews], None],
    ) -> None:
        """Tell by `publish`, which never blocks."""
        self._roster = roster
        self._book = book
        self._patience = patience
        self._publish = publish

    def tell_commits(self) -> None:
        """Tell drafters what became final; an answer is expected from then on."""
        frames = self._book.take_frames(self._patience.economics())
        if frames:
            self._publish(EngineNews(frames=frames))
            opened = {endpoint for endpoint, frame in frames.items() if frame.opens}
            committed = {endpoint for endpoint, frame in frames.items() if frame.commits}
            self._patience.commits_announced(opened | committed, opened)

    def tell_all(self) -> None:
        """Tell everybody everything."""
        outputs = self._roster.take_outputs()
        frames, refused_links = self._book.take_frames(), self._book.take_refused_links()
        if outputs or frames or refused_links:
            self._publish(EngineNews(outputs, frames, refused_links))
