"""An answer: its text and tokens, the objects in it, and the time it took.

reply = pg.generate("image.png", "detect cat")
reply.detections[0].label
json.dumps(reply.to_json())
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from paligemma.detections import Detection


@dataclass(frozen=True)
class Token:
    """One token of an answer; `text` is what it adds, `logprob` its natural log-probability."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Timings:
    """Seconds: to encode the image, to the first token after that, for the tokens that follow.

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
        """Decoding speed of one sequence, 0 before the second token."""
        return self.steps / self.decode_s if self.decode_s else 0.0


FinishReason = Literal["stop", "length", "time"]


@dataclass(frozen=True)
class Reply:
    """An answer so far. `detections` are the objects in `text`.

    `finish_reason` is None until the last reply: "stop" for an answer that the model ended itself,
    "length" for one that `max_new_tokens` or the model's last position cut off, and "time" where a
    time limit did.

    `prompt` and `image_size`, (width, height) of the upright image in pixels, are those of the
    request, None where they are not known.
    """

    text: str
    detections: tuple[Detection, ...]
    tokens: tuple[Token, ...]
    timings: Timings
    finish_reason: FinishReason | None
    prompt: str | None = None
    image_size: tuple[int, int] | None = None

    @property
    def finished(self) -> bool:
        """Whether this is the last reply."""
        return self.finish_reason is not None

    @property
    def is_cut_off(self) -> bool:
        """Whether a limit ended the answer, and not the model."""
        return self.finish_reason in ("length", "time")

    def to_json(self, tokens: bool = True) -> dict[str, Any]:
        """The answer as plain values: the one JSON that command line, API, MCP and batch write.

        text, prompt: strings; prompt may be null.
        width, height: pixels of the upright image, or null.
        detections: a list, each object with its label; score, 0..1 or null, of which
            `PaliGemma.score_meaning` tells the meaning; box, [x1, y1, x2, y2] in pixels (null
            without the image's size), and box_normalized, the same in 0..1; mask_codes, 16 numbers
            0..127, or null for an object without a mask.
        num_tokens: of the answer. tokens (left out with `tokens` False): each token's id, text and
            logprob.
        timings: seconds image_s, prefill_s, decode_s and their sum total_s; decoding steps.
        finish_reason: "stop", "length" or "time" as above; null before the last reply.
        """
        width, height = self.image_size or (None, None)
        return {
            "text": self.text,
            "prompt": self.prompt,
            "width": width,
            "height": height,
            "detections": [self._detection(found) for found in self.detections],
            "num_tokens": len(self.tokens),
            **({"tokens": [asdict(token) for token in self.tokens]} if tokens else {}),
            "timings": asdict(self.timings) | {"total_s": self.timings.total_s},
            "finish_reason": self.finish_reason,
        }

    def _detection(self, found: Detection) -> dict[str, Any]:
        return {
            "label": found.label,
            "score": found.score,
            "box": self.image_size and list(found.xyxy(*self.image_size)),
            "box_normalized": list(found.box),
            "mask_codes": found.codes and list(found.codes),
        }
