"""A model that answers from a script, for tests of the app that need exact answers."""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import numpy as np

from paligemma.detections import parse, parse_tokens
from paligemma.generation import SamplingOptions
from paligemma.images import open_image
from paligemma.interpret.explain import CHEAP_VIEWS, Explanation
from paligemma.reply import Reply, Timings, Token


class Scripted:
    """Has what the app uses of `PaliGemma`.

    answers: the tokens for each prompt; any other prompt is answered with nothing.
    pause: seconds a token takes; `pauses`, for some prompts. `log` holds (prompt, tokens given, how
    it ended) of every stream.
    """

    name = "a scripted model"
    description = "It answers what a test wrote down."
    facts = "no parameters"
    checkpoint = SimpleNamespace(source="scripted")
    memory, is_built_in, resolution = 0, False, 128
    known_names: tuple[str, ...] = ()
    sticker_sheet = None
    score_meaning = "Confidence is what a test wrote down."

    def __init__(
        self,
        answers: Mapping[str, Sequence[str]],
        pause: float = 0.0,
        pauses: Mapping[str, float] | None = None,
    ):
        self.answers, self.pause, self.log = answers, pause, []
        self.pauses = pauses or {}

    def stream(
        self, image, prompt: str, options: SamplingOptions, answer: Sequence[Token] = ()
    ) -> Iterator[Reply]:
        size, start = open_image(image).size, len(answer)
        whole = list(self.answers.get(prompt, ()))
        script = whole[: start + options.max_new_tokens]
        given, end, started = start, "closed", time.perf_counter()
        try:
            for given in range(start, len(script) + 1):
                tokens = tuple(Token(n, text, -0.1) for n, text in enumerate(script[:given]))
                text = "".join(token.text for token in tokens).strip()
                spent = Timings(0.01, 0.01, time.perf_counter() - started, given)
                reason = "stop" if len(script) == len(whole) else "length"
                reason = reason if given == len(script) else None
                yield Reply(text, tuple(parse(text)), tokens, spent, reason, prompt, size)
                time.sleep(self.pauses.get(prompt, self.pause))
            end = "finished"
        finally:
            self.log.append((prompt, given, end))

    def generate(self, image, prompt: str, options: SamplingOptions) -> Reply:
        *_, reply = self.stream(image, prompt, options)
        return reply

    def parse_detections(self, tokens):
        return parse_tokens(tokens)

    def masks(self, detections) -> list[np.ndarray | None]:
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        disc = (1 - np.hypot(x, y)).astype(np.float32)
        return [None if found.codes is None else disc for found in detections]

    def explain_reply(
        self, image, prompt: str, reply: Reply, views=CHEAP_VIEWS, check=None
    ) -> Explanation:
        """Two layers of two heads; token n attends to the patch in row n, column 3n, and to BOS."""
        count = len(reply.tokens)
        heads = np.full((2, 2, count, 8, 8), 1e-3, np.float32)
        for n in range(count):
            heads[:, :, n, n % 8, 3 * n % 8] = 0.3
        text = np.zeros((count + 1, count + 1), np.float32)
        text[:, 0] = 0.6
        layers = heads.mean(1)
        return Explanation(
            reply=reply,
            prompt=("<bos>",),
            heads=heads,
            between_tokens=text,
            prompt_maps=np.full((1, 8, 8), 1e-3, np.float32),
            layers=dict.fromkeys(views, layers),
            maps=dict.fromkeys(views, layers.mean(0)),
            sinks=(),
        )

    def tower_attention(self, image, row: int, column: int) -> np.ndarray:
        return np.full((2, 2, 8, 8), 1 / 64, np.float32)
