"""What a worker's trainings tell the coordinator."""

from typing import Protocol

from tunesmith.sweep.protocol import Begun, Inherited, Message, Routed, Rung, Segment, StepMetrics, Warned


class Channel(Protocol):
    """The way to the coordinator."""

    def send(self, message: Message) -> None:
        """Send a message."""

    def stopping(self) -> bool:
        """Whether the coordinator wants the work to end after this step."""

    def answer(self) -> tuple[Segment, ...]:
        """Wait for the answer to an `Ended`."""


class Relay:
    """Sends the progress of one training to the coordinator."""

    def __init__(self, channel: Channel, key: str) -> None:
        self.channel, self.key = channel, key

    def begin(self, steps: int, *, step: int = 0) -> None:
        """A training begins or goes on."""
        self.channel.send(Begun(self.key, steps, step))

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """An optimiser step is done."""
        self.channel.send(StepMetrics(self.key, values, step))

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """A share of the training is done."""
        self.channel.send(Rung(self.key, fraction, step, tune_loss))

    def warn(self, text: str) -> None:
        """Tell of something that stops nothing."""
        self.channel.send(Warned(self.key, text))

    def inherit(self, step: int) -> None:
        """Tell that the training begins with the weights that another had after so many steps."""
        self.channel.send(Inherited(self.key, step))

    def route(self, engine: str, reason: str | None = None) -> None:
        """Tell which library trains, and why it is not the slots engine."""
        self.channel.send(Routed(self.key, engine, reason))
