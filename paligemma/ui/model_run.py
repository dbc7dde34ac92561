"""One request's use of models: it ends at a time limit, and when its client has gone."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from time import monotonic

from PIL import Image

from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply, Token
from paligemma.ui.queue import client_has_gone, report_tokens


class ModelRun:
    """Begins with the request. `max_seconds`: for all its answers together; None for no limit."""

    def __init__(self, max_seconds: float | None) -> None:
        self._max_seconds, self._start = max_seconds, monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the time limit has passed."""
        return self._max_seconds is not None and monotonic() - self._start > self._max_seconds

    def check(self) -> None:
        """Raises ValueError if the time limit is over, and when the client has gone."""
        if self.is_over:
            raise ValueError(f"The time limit of a request, {self._max_seconds:g} s, is over.")
        _check_client()

    def stream(
        self,
        model: PaliGemma,
        image: Image.Image,
        prompt: str,
        options: SamplingOptions,
        answer: Sequence[Token] = (),
    ) -> Generator[Reply, None, None]:
        """As `PaliGemma.stream`; where the time limit ends the answer, `finish_reason` is "time".

        Raises ValueError if the time limit is over before, and when the client has gone.
        """
        self.check()
        count = len(answer)
        # closing the stream stops the model
        with closing(model.stream(image, prompt, options, answer)) as replies:
            for reply in replies:
                report_tokens(len(reply.tokens) - count)
                count = len(reply.tokens)
                _check_client()
                if self.is_over and not reply.finished:
                    yield replace(reply, finish_reason="time")
                    return
                yield reply

    def generate(
        self, model: PaliGemma, image: Image.Image, prompt: str, options: SamplingOptions
    ) -> Reply:
        """The last reply of `stream`."""
        *_, reply = self.stream(model, image, prompt, options)
        return reply


def _check_client() -> None:
    if client_has_gone():
        raise ValueError("This request was stopped.")
