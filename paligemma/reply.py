"""What comes back: an answer with its tokens, the objects in it, and the time it took."""

from dataclasses import dataclass

from paligemma.detections import Detection


@dataclass(frozen=True)
class Token:
    """One token of an answer; `text` is what it adds, `logprob` its natural log-probability."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Timings:
    """Seconds: to encode the picture, to the first token after that, for the tokens that follow.

    `steps` counts the decoding steps behind `decode_s`. In a batch they are those of the batch.
    """

    image_s: float
    prefill_s: float
    decode_s: float
    steps: int

    @property
    def total_s(self) -> float:
        return self.image_s + self.prefill_s + self.decode_s

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed of one row, 0 before the second token."""
        return self.steps / self.decode_s if self.decode_s else 0.0


@dataclass(frozen=True)
class Reply:
    """An answer so far. `detections` are the objects in `text`; `finished` marks the last one."""

    text: str
    detections: tuple[Detection, ...]
    tokens: tuple[Token, ...]
    timings: Timings
    finished: bool
