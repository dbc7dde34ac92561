"""PaliGemma in three lines: load a checkpoint, give it an image and a prompt, use the reply.

from paligemma import PaliGemma
pg = PaliGemma.load()
pg.generate("image.png", "detect cat").detections

The app, the command line and the tests use this class; the layers below know only ids and tensors.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from paligemma.checkpoints import hub
from paligemma.checkpoints.calibration import ScoreCalibration, calibrate
from paligemma.checkpoints.io import forget_pages
from paligemma.checkpoints.resolve import Checkpoint, resolve
from paligemma.config import PaliGemmaConfig
from paligemma.detections import Detection, DetectionParser, parse_tokens
from paligemma.devices import format_bytes, plan_placement, weights_memory
from paligemma.generation import SamplingOptions, Step, stream
from paligemma.images import open_image
from paligemma.interpret.capture import capture_attention, tower_attention
from paligemma.interpret.explain import CHEAP_VIEWS, Explainer, Explanation
from paligemma.models.frozen import pack_frozen
from paligemma.models.mask_codec import MaskCodec
from paligemma.models.packed import lay_out_weights
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor
from paligemma.prompts import strip_image_tokens
from paligemma.reply import FinishReason, Reply, Timings, Token

BUILT_IN_DESCRIPTION = (
    "A small model that was trained on drawn scenes only: it does not understand photographs."
)
CALIBRATED_SCORE = (
    "Confidence is the chance that a box is right: about 80 % of the boxes at 80 % were, on "
    "{measured_on}."
)
UNCALIBRATED_SCORE = (
    "Confidence is the mean probability of an object's tokens. Use it to compare objects: it is "
    "not the chance that a box is right."
)
FEATURE_CACHE_SIZE = 16  # images whose features stay in memory


class PaliGemma:
    """A loaded checkpoint: make one with `PaliGemma.load`.

    Images are paths, bytes, binary files, PIL images or arrays: see `images.open_image`. What that
    function returned is neither decoded nor copied again.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: PaliGemmaForConditionalGeneration,
        quantize: str | None = None,
    ) -> None:
        self.checkpoint, self.model, self.quantize = checkpoint, model, quantize
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
        base: str | Path | None = None,
        quantize: str | None = None,
    ) -> "PaliGemma":
        """Load a checkpoint; `source`, `tokenizer`, `mask_codec`, `base`: `checkpoints.resolve`.

        device: None for the best one of this machine, "auto" for all of them and the disk
        dtype: None for bfloat16 if the device computes in it, else float32; the built-in model is
            small, and float32 by default
        quantize: "int8" or "int4" for the decoder's weights, on the CPU; answers change a little

        Raises ValueError if the checkpoint cannot be had or does not fit.
        """
        fits = partial(plan_placement, device=device, dtype=dtype, quantize=quantize)
        checkpoint = resolve(source, tokenizer, mask_codec, fits=fits, base=base)
        return cls.from_checkpoint(checkpoint, device, dtype, quantize)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: str | None = None,
    ) -> "PaliGemma":
        """Load what `checkpoints.resolve` returned; the rest is as in `load`."""
        placement, dtype = checkpoint.plan(device, dtype, quantize=quantize)
        model = checkpoint.load_model(placement, dtype, quantized=True)
        if checkpoint.quantization:
            quantize = checkpoint.quantization
            pack_frozen(model, forget_pages)
        elif placement == torch.device("cpu"):
            lay_out_weights(model, quantize, forget_pages)
        return cls(checkpoint, model, quantize)

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def is_built_in(self) -> bool:
        return self.checkpoint.is_built_in

    @cached_property
    def known_names(self) -> tuple[str, ...]:
        """The names of objects that it was trained to find; empty where they are not listed."""
        return self.checkpoint.known_names

    @property
    def sticker_sheet(self) -> Path | None:
        """The image with a drawing of each kind that it knows, if one is beside its weights."""
        return self.checkpoint.sticker_sheet

    @cached_property
    def score_calibration(self) -> ScoreCalibration | None:
        """How often a box of a score is right, where that was measured."""
        return self.checkpoint.score_calibration

    @property
    def score_meaning(self) -> str:
        """What the score of an object says, in a sentence or two."""
        if self.score_calibration is None:
            return UNCALIBRATED_SCORE
        return CALIBRATED_SCORE.format(measured_on=self.score_calibration.measured_on)

    @property
    def description(self) -> str:
        """What to expect of its answers, in a sentence or two."""
        if self.checkpoint.is_built_in:
            return BUILT_IN_DESCRIPTION
        if self.checkpoint.is_random:
            return "Random weights: what it answers is noise."
        return "It answers as it was trained to; how right it is was not measured here."

    @property
    def facts(self) -> str:
        """Parameters, resolution, dtype, device and memory, in one line."""
        side = self.resolution
        return (
            f"{self.config.num_parameters / 1e6:,.1f} million parameters · {side} × {side} pixels"
            f" · {self.precision} · {self.device} · {format_bytes(self.memory)}"
        )

    @property
    def precision(self) -> str:
        """ "int8", "int4", or the dtype's name, such as "bfloat16"."""
        return self.quantize or str(self.dtype).removeprefix("torch.")

    @property
    def resolution(self) -> int:
        """Side of the square input image, in pixels."""
        return self.config.vision_config.image_size

    @property
    def memory(self) -> int:
        """Bytes of the parameters."""
        return weights_memory(self.config, self.dtype, self.quantize)

    @property
    def config(self) -> PaliGemmaConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.language_model.embed_tokens.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.language_model.embed_tokens.dtype

    @cached_property
    def mask_codec(self) -> MaskCodec:
        """The mask codec, read at first use. Raises ValueError if it cannot be had."""
        return MaskCodec.load(self.checkpoint.mask_codec or hub.fetch_mask_codec())

    def generate(
        self,
        image,
        prompt: str,
        options: SamplingOptions = SamplingOptions(),
        answer: Sequence[Token] = (),
    ) -> Reply:
        """The complete answer about an image, or a list of several; for `answer` see `stream`."""
        *_, reply = self.stream(image, prompt, options, answer)
        return reply

    def stream(
        self,
        image,
        prompt: str,
        options: SamplingOptions = SamplingOptions(),
        answer: Sequence[Token] = (),
    ) -> Generator[Reply, None, None]:
        """The answer so far after each token. Closing the iterator stops the generation.

        An answer that was cut off goes on from its tokens `answer`; the replies begin with them.
        `options.max_new_tokens` counts those that are added.
        """
        for (reply,) in self._stream_batch([image], [prompt], options, answer):
            yield reply

    def generate_batch(
        self, images: Sequence, prompts: Sequence[str], options: SamplingOptions = SamplingOptions()
    ) -> list[Reply]:
        """One answer for each pair of image and prompt, generated together."""
        *_, replies = self._stream_batch(images, prompts, options)
        return replies

    def parse_detections(self, tokens: Iterable[tuple[str, float]]) -> list[Detection]:
        """The objects in an answer of (text, natural-log probability), as in its reply."""
        return calibrate(parse_tokens(tokens), self.score_calibration)

    def masks(self, detections: Sequence[Detection]) -> list[np.ndarray | None]:
        """The mask logits of each detection with codes, [64, 64] over its box; None without."""
        codes = [detection.codes for detection in detections if detection.codes is not None]
        if not codes:
            return [None] * len(detections)
        masks = iter(self.mask_codec.decode(torch.tensor(codes)).numpy())
        return [None if detection.codes is None else next(masks) for detection in detections]

    def explain(
        self,
        image,
        prompt: str,
        options: SamplingOptions = SamplingOptions(),
        views: Sequence[str] = CHEAP_VIEWS,
    ) -> Explanation:
        """Answer, and return the decoder's attention at each token: see `interpret.explain.VIEWS`.

        Raises ValueError for an unknown view, and for "gradient" if autograd cannot run.
        """
        image = open_image(image)
        with capture_attention(self.model) as attention:
            reply = self.generate(image, prompt, options)
        return self._explainer(image, prompt).explain(reply, attention[0], views)

    def explain_reply(
        self,
        image,
        prompt: str,
        reply: Reply,
        views: Sequence[str] = CHEAP_VIEWS,
        check: Callable[[], object] = lambda: None,
    ) -> Explanation:
        """The same for an existing reply, in one forward pass over it.

        `check` is called before each backward pass; what it raises ends the work.
        """
        explainer = self._explainer(image, prompt)
        return explainer.explain(reply, explainer.attention(reply), views, check)

    def similarity(self, image, word: str) -> np.ndarray:
        """Cosine similarity of each patch's features to a word's embedding: [grid, grid]."""
        return self._explainer(image, "").similarity(word)

    def tower_attention(self, image, row: int, column: int) -> np.ndarray:
        """The vision tower's attention of one patch: [layers, heads, grid, grid]; sums are 1.

        Raises ValueError for a patch outside the grid.
        """
        grid = self.config.vision_config.grid
        if not (0 <= row < grid and 0 <= column < grid):
            raise ValueError(f"Patches have rows and columns 0 to {grid - 1}, not {row}, {column}.")
        pixel_values = self.processor.pixel_values([image]).to(self.device, self.dtype)
        attention = tower_attention(self.model, pixel_values, [row * grid + column])
        return attention[:, :, 0].reshape(*attention.shape[:2], grid, grid).numpy()

    def _explainer(self, image, prompt: str) -> Explainer:
        features = self._encode(self.processor.pixel_values([image]))
        return Explainer(self.model, self.processor, features, strip_image_tokens(prompt))

    def _stream_batch(
        self,
        images: Sequence,
        prompts: Sequence[str],
        options: SamplingOptions,
        answer: Sequence[Token] = (),
    ) -> Iterator[list[Reply]]:
        """One reply a prompt, after each token; in the last list all are finished.

        The first tokens of each answer are those of `answer`.
        """
        start = perf_counter()
        prompts = [strip_image_tokens(prompt) for prompt in prompts]
        batch = self.processor(text=prompts, images=images)
        features = self._encode(batch.pixel_values)
        image_s = perf_counter() - start
        requests = zip(prompts, batch.image_sizes, strict=True)
        builders = [
            _ReplyBuilder(self.processor, self.score_calibration, *request) for request in requests
        ]
        steps = stream(
            self.model,
            batch.input_ids.to(self.device),
            features,
            batch.attention_mask.to(self.device),
            options,
            self.processor.eos_token_id,
            torch.tensor([[token.id for token in answer]] * len(prompts), dtype=torch.int64).to(
                self.device
            ),
            self.processor.loc_ids,
        )
        for builder in builders:
            for token in answer:
                builder.add(token.id, token.logprob)
        prefill_s = decode_s = 0.0
        for count, (seconds, step) in enumerate(_time_steps(steps)):
            if count == 0:
                prefill_s = seconds
            else:
                decode_s += seconds
            timings = Timings(image_s, prefill_s, decode_s, count)
            for builder, token, logprob in zip(builders, step.ids, step.logprobs, strict=True):
                builder.add(token, logprob)
            yield [
                builder.reply(timings, "stop" if builder.finished else None) for builder in builders
            ]
        if not all(builder.finished for builder in builders):
            yield [
                builder.reply(timings, "stop" if builder.finished else "length")
                for builder in builders
            ]

    @torch.inference_mode()
    def _encode(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, R, R] -> features [B, P, D]; recent images are not encoded again."""
        keys = [hashlib.sha256(image.numpy().tobytes()).digest() for image in pixel_values]
        with self._lock:
            features = {key: self._features[key] for key in keys if key in self._features}
        new = {key: n for n, key in enumerate(keys) if key not in features}
        if new:
            pixels = pixel_values[list(new.values())].to(self.device, self.dtype)
            features |= zip(new, self.model.embed_image(pixels), strict=True)
        with self._lock:
            for key in keys:
                self._features[key] = features[key]
                self._features.move_to_end(key)
            while len(self._features) > FEATURE_CACHE_SIZE:
                self._features.popitem(last=False)
        return torch.stack([features[key] for key in keys])


class _ReplyBuilder:
    """One sequence's tokens as they arrive."""

    def __init__(
        self,
        processor: PaliGemmaProcessor,
        calibration: ScoreCalibration | None,
        prompt: str,
        image_size: tuple[int, int],
    ) -> None:
        self._processor, self._calibration = processor, calibration
        self._prompt, self._image_size = prompt, image_size
        self._pending: list[int] = []  # ids whose bytes do not make a character yet
        self._tokens: list[Token] = []
        self._parser = DetectionParser()
        self.finished = False

    def add(self, token: int, logprob: float) -> None:
        self.finished = self.finished or token == self._processor.eos_token_id
        if self.finished:
            return
        self._pending.append(token)
        text = self._processor.decode_pieces(self._pending)[-1]
        if text:
            self._pending.clear()
        self._tokens.append(Token(token, text, logprob))
        self._parser.feed(text, logprob)

    def reply(self, timings: Timings, finish_reason: FinishReason | None) -> Reply:
        return Reply(
            text="".join(token.text for token in self._tokens),
            detections=tuple(calibrate(self._parser.detections, self._calibration)),
            tokens=tuple(self._tokens),
            timings=timings,
            finish_reason=finish_reason,
            prompt=self._prompt,
            image_size=self._image_size,
        )


def _time_steps(steps: Iterator[Step]) -> Iterator[tuple[float, Step]]:
    """Each step with the seconds it took the model; the consumer's own time does not count."""
    while True:
        start = perf_counter()
        step = next(steps, None)
        if step is None:
            return
        yield perf_counter() - start, step
