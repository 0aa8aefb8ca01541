"""A lane of a search: the trials that one worker trains side by side."""

from typing import TYPE_CHECKING

from tunesmith.sweep.coordinator import number_of
from tunesmith.sweep.following import Follower
from tunesmith.sweep.protocol import Ended, Inherited, News, Segment

if TYPE_CHECKING:
    from tunesmith.sweep.search import Search


class Lane(Follower):
    """Follows its trials, records their ends, and takes others in their places.

    A trial that keeps losing its worker stays alone, so that whatever ends the worker is not blamed on others.
    """

    def __init__(self, search: "Search", segments: tuple[Segment, ...]) -> None:
        super().__init__(search.progress)
        self.search = search
        with search.lock:
            self.alone = any(search.trains_alone(number_of(segment.key)) for segment in segments)
            self._seat(segments)

    def _seat(self, segments: tuple[Segment, ...]) -> None:
        for segment in segments:
            trial = self.search.study.trials()[number_of(segment.key)]
            self.follow(segment.key, self.search.runs.of(trial))

    def on_news(self, news: News) -> None:
        """Write down what a trial reports; in the study too, with which weights of another it begins."""
        super().on_news(news)
        if isinstance(news, Inherited):
            with self.search.lock:
                self.search.study.remember(number_of(news.key), warm_step=news.step)

    def on_end(self, ended: Ended) -> tuple[Segment, ...]:
        """Record the end, and fill the free place if something can be done now."""
        with self.search.lock:
            self.search.end_segment(ended, self.leave(ended.key))
            more = () if self.alone else self.search.next_segments(1, joining=True)
            self._seat(more)
            return more
