"""The `tunesmith` command line, which also writes down when its coordinator heard of which optimiser step.

    TUNESMITH_BENCHMARK_STEPS=file python -m benchmarks.heard_steps sweep ...

Each line of the file is a UNIX time, the training's name and the step. What a resumed sweep repeats is in it too, which
MLflow's metrics leave out. It imports no more than the command line does, so that it starts as fast.
"""

import os
import pathlib
import time

FILE = "TUNESMITH_BENCHMARK_STEPS"


def main() -> None:
    """Run the command line; listen as soon as that has begun to start the workers' process, and not before."""
    from tunesmith.cli import main as command_line
    from tunesmith.sweep import forkserver

    start = forkserver.start

    def start_and_listen() -> None:
        start()
        forkserver.start = start
        listen()

    forkserver.start = start_and_listen
    command_line()


def listen() -> None:
    """Write down each step that the coordinator hears of."""
    from tunesmith.sweep.following import Follower
    from tunesmith.sweep.protocol import News, StepMetrics

    usual = Follower.on_news

    def on_news(follower: Follower, news: News) -> None:
        usual(follower, news)
        if isinstance(news, StepMetrics):
            with pathlib.Path(os.environ[FILE]).open("a") as file:
                file.write(f"{time.time()} {news.key} {news.step}\n")

    Follower.on_news = on_news  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
