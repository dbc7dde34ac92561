"""PaliGemma in three lines: load a checkpoint, show it a picture, read the reply.

from paligemma import PaliGemma
pg = PaliGemma.load()
pg.generate("picture.png", "detect cat").detections

The app, the command line and the tests all call this; below it there are only ids and tensors.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from paligemma.checkpoints import hub
from paligemma.checkpoints.resolve import Checkpoint, resolve
from paligemma.config import PaliGemmaConfig
from paligemma.detections import Detection, DetectionParser
from paligemma.devices import format_bytes
from paligemma.generation import SamplingOptions, Step, stream
from paligemma.images import open_image
from paligemma.interpret.capture import capture_attention, tower_attention
from paligemma.interpret.explain import CHEAP_VIEWS, Explainer, Explanation
from paligemma.models.mask_codec import MaskCodec
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor
from paligemma.reply import Reply, Timings, Token

BUILT_IN_KNOWS = (
    "A small model that this project trained itself, on drawn scenes only: it knows 32 coloured "
    "pictograms and short words in capitals on plain backgrounds, and answers in English. "
    "Photographs are outside its world, and it errs at times, most with four things in a scene."
)
KEPT_PICTURES = 16  # encoded pictures that stay in memory


class PaliGemma:
    """A loaded checkpoint. Make one with `PaliGemma.load`."""

    def __init__(self, checkpoint: Checkpoint, model: PaliGemmaForConditionalGeneration) -> None:
        self.checkpoint, self.model = checkpoint, model
        self.processor = checkpoint.processor
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        tokenizer: str | Path | None = None,
        mask_codec: str | Path | None = None,
    ) -> "PaliGemma":
        """Load a checkpoint: see `resolve` for what `source`, `tokenizer`, `mask_codec`
        may be.

        `device` None is the best one that this machine has and the model fits, "auto" all of them
        and the disk. `dtype` None is bfloat16 where the device computes in it, else float32; the
        built-in model is small, and always float32. Raise ValueError for what cannot be loaded.
        """
        return cls.open(resolve(source, tokenizer, mask_codec), device, dtype)

    @classmethod
    def open(
        cls,
        checkpoint: Checkpoint,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> "PaliGemma":
        """Load what `resolve` found; the rest is as in `load`."""
        return cls(checkpoint, checkpoint.load_model(*checkpoint.plan(device, dtype)))

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def is_built_in(self) -> bool:
        return self.checkpoint.is_built_in

    @property
    def description(self) -> str:
        """What it knows, in a sentence or two."""
        if self.checkpoint.is_built_in:
            return BUILT_IN_KNOWS
        if self.checkpoint.is_random:
            return "Random weights: what it answers is noise."
        return "It answers as it was trained to; how right it is was not measured here."

    @property
    def facts(self) -> str:
        """Parameters, resolution, dtype, device and memory, in one line."""
        side = self.resolution
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.config.num_parameters / 1e6:,.1f} million parameters · {side} × {side} pixels"
            f" · {dtype} · {self.device} · {format_bytes(self.memory)}"
        )

    @property
    def resolution(self) -> int:
        """Pixels of a side of the square that the model sees."""
        return self.config.vision_config.image_size

    @property
    def memory(self) -> int:
        """Bytes of the parameters."""
        return self.config.num_parameters * self.dtype.itemsize

    @property
    def config(self) -> PaliGemmaConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.language_model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.language_model.embed_tokens.weight.dtype

    @cached_property
    def mask_codec(self) -> MaskCodec:
        """The mask codec, fetched and read when the first mask is needed; ValueError without it."""
        return MaskCodec.load(self.checkpoint.mask_codec or hub.fetch_mask_codec())

    def generate(self, image, prompt: str, options: SamplingOptions = SamplingOptions()) -> Reply:
        """The whole answer about one picture (a path, bytes, PIL image or array)."""
        *_, reply = self.stream(image, prompt, options)
        return reply

    def stream(
        self, image, prompt: str, options: SamplingOptions = SamplingOptions()
    ) -> Iterator[Reply]:
        """The answer as it grows, a `Reply` a token. Closing the iterator stops the model."""
        for (reply,) in self._replies([image], [prompt], options):
            yield reply

    def batch(
        self, images: Sequence, prompts: Sequence[str], options: SamplingOptions = SamplingOptions()
    ) -> list[Reply]:
        """One answer for each pair of picture and prompt, generated together."""
        *_, replies = self._replies(images, prompts, options)
        return replies

    def masks(self, detections: Sequence[Detection]) -> list[np.ndarray | None]:
        """The soft mask of each detection that has codes, [64, 64] in its box: inside where > 0."""
        coded = [found.codes for found in detections if found.codes is not None]
        if not coded:
            return [None] * len(detections)
        decoded = iter(self.mask_codec.decode(torch.tensor(coded)).numpy())
        return [None if found.codes is None else next(decoded) for found in detections]

    def explain(
        self,
        image,
        prompt: str,
        options: SamplingOptions = SamplingOptions(),
        views: Sequence[str] = CHEAP_VIEWS,
    ) -> Explanation:
        """Answer, and say where the decoder looked as it wrote each token: see `explain.VIEWS`.

        Raise ValueError for an unknown view, and for "gradient" where autograd cannot run.
        """
        image = open_image(image)
        with capture_attention(self.model) as maps:
            reply = self.generate(image, prompt, options)
        return self._reading(image, prompt).explain(reply, maps[0], views)

    def explain_reply(
        self, image, prompt: str, reply: Reply, views: Sequence[str] = CHEAP_VIEWS
    ) -> Explanation:
        """The same for an answer that is there already, in one pass over it."""
        reading = self._reading(image, prompt)
        return reading.explain(reply, reading.attention(reply), views)

    def similarity(self, image, word: str) -> np.ndarray:
        """How alike each patch, out of the connector, is to a word: [grid, grid], cosines -1..1."""
        return self._reading(image, "").similarity(word)

    def tower_attention(self, image, row: int, column: int) -> np.ndarray:
        """Where one patch looks in the vision tower: [layers, heads, grid, grid]; each sums to 1.

        Raise ValueError for a patch outside the grid.
        """
        grid = self.config.vision_config.grid
        if not (0 <= row < grid and 0 <= column < grid):
            raise ValueError(f"Patches have rows and columns 0 to {grid - 1}, not {row}, {column}.")
        pixels = self.processor.pixel_values([image]).to(self.device, self.dtype)
        maps = tower_attention(self.model, pixels, [row * grid + column])
        return maps[:, :, 0].reshape(*maps.shape[:2], grid, grid).numpy()

    def _reading(self, image, prompt: str) -> Explainer:
        features = self._embed(self.processor.pixel_values([image]))
        return Explainer(self.model, self.processor, features, prompt)

    def _replies(
        self, images: Sequence, prompts: Sequence[str], options: SamplingOptions
    ) -> Iterator[list[Reply]]:
        """A growing list with one reply a row; at the end each is finished."""
        start = perf_counter()
        batch = self.processor(text=prompts, images=images)
        features = self._embed(batch.pixel_values)
        seen = perf_counter()
        requests = zip(prompts, batch.image_sizes, strict=True)
        answers = [_Answer(self.processor, *request) for request in requests]
        steps = stream(
            self.model,
            batch.input_ids.to(self.device),
            features,
            batch.attention_mask.to(self.device),
            options,
            self.processor.eos_token_id,
        )
        prefill = decode = 0.0
        replies: list[Reply] = []
        for count, (spent, step) in enumerate(_timed(steps)):
            if count == 0:
                prefill = spent
            else:
                decode += spent
            timings = Timings(seen - start, prefill, decode, count)
            for answer, token, logprob in zip(answers, step.ids, step.logprobs, strict=True):
                answer.add(token, logprob)
            replies = [answer.reply(timings, answer.finished) for answer in answers]
            yield replies
        if not all(reply.finished for reply in replies):
            yield [answer.reply(timings, finished=True) for answer in answers]

    @torch.inference_mode()
    def _embed(self, pixel_values: Tensor) -> Tensor:
        """Pictures [B, 3, R, R] -> features [B, P, D]; those seen lately are not encoded again."""
        keys = [hashlib.sha256(picture.numpy().tobytes()).digest() for picture in pixel_values]
        with self._lock:
            known = {key: self._features[key] for key in keys if key in self._features}
        new = [n for n, key in enumerate(keys) if key not in known]
        new = list({keys[n]: n for n in new}.values())
        if new:
            fresh = self.model.embed_image(pixel_values[new].to(self.device, self.dtype))
            known |= {keys[n]: row for n, row in zip(new, fresh, strict=True)}
        with self._lock:
            for key in keys:
                self._features[key] = known[key]
                self._features.move_to_end(key)
            while len(self._features) > KEPT_PICTURES:
                self._features.popitem(last=False)
        return torch.stack([known[key] for key in keys])


class _Answer:
    """One row's tokens while they arrive."""

    def __init__(
        self, processor: PaliGemmaProcessor, prompt: str, image_size: tuple[int, int]
    ) -> None:
        self._processor, self._prompt, self._image_size = processor, prompt, image_size
        self._waiting: list[int] = []  # ids whose bytes do not make a character yet
        self._tokens: list[Token] = []
        self._parser = DetectionParser()
        self.finished = False

    def add(self, token: int, logprob: float) -> None:
        self.finished = self.finished or token == self._processor.eos_token_id
        if self.finished:
            return
        self._waiting.append(token)
        text = self._processor.decode_pieces(self._waiting)[-1]
        if text:
            self._waiting.clear()
        self._tokens.append(Token(token, text, logprob))
        self._parser.feed(text, logprob)

    def reply(self, timings: Timings, finished: bool) -> Reply:
        return Reply(
            text="".join(token.text for token in self._tokens),
            detections=tuple(self._parser.detections),
            tokens=tuple(self._tokens),
            timings=timings,
            finished=finished,
            prompt=self._prompt,
            image_size=self._image_size,
        )


def _timed(steps: Iterator[Step]) -> Iterator[tuple[float, Step]]:
    """Each step with the seconds it took the model: a consumer's own time does not count."""
    while True:
        start = perf_counter()
        step = next(steps, None)
        if step is None:
            return
        yield perf_counter() - start, step
