"""Answers while training: the model is asked what `eval_data` asks, and its answers are scored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image

from paligemma.checkpoints.resolve import Checkpoint
from paligemma.evaluation.answers import AnswerScores, score_answers
from paligemma.generation import MAX_NEW_TOKENS, SamplingOptions
from paligemma.images import open_image
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.training.config import Run
from paligemma.training.data import Mixture
from paligemma.training.inspect import samples_sheet
from paligemma.training.sources import InvalidSample, Sample, Source

SHOWN = 8  # samples whose answers are drawn beside the truth
ROOM = 8  # tokens that an answer may have beyond twice the longest reference


@dataclass(frozen=True)
class ValidationScores:
    """The scores of the answers, and a sheet of samples with truth and answer."""

    answers: AnswerScores
    sheet: Image.Image


class Validation:
    """`max_eval_samples` samples of `eval_data`, their images as the model sees them.

    `places` are their sources and rows: mixed by the sources' weights, each once.
    """

    def __init__(
        self, run: Run, start: Checkpoint, sources: Sequence[Source], has_masks: bool
    ) -> None:
        self.start, self.has_masks = start, has_masks
        self.samples: list[Sample] = []
        mixture = Mixture(sources, [given.weight for given in run.eval_data], run.seed)
        drawn = map(mixture.at, count())
        self.places: dict[tuple[int, int], None] = {}
        while len(self.places) < min(len(mixture), run.max_eval_samples):
            self.places[next(drawn)] = None
        longest = 1
        for which, row in self.places:
            source = sources[which]
            try:
                sample = source[row]
                longest = max(longest, len(start.processor.encode_suffix(sample.suffix)))
                image, *more = map(self._square, sample.images)
                self.samples.append(replace(sample, image=image, more_images=tuple(more)))
            except ValueError as error:
                if run.on_invalid == "skip":
                    continue
                if isinstance(error, InvalidSample):
                    raise
                raise InvalidSample(f"{source.place(row)}: {error}") from error
        self.options = SamplingOptions(max_new_tokens=min(2 * longest + ROOM, MAX_NEW_TOKENS))

    def _square(self, image: Path | Image.Image) -> Image.Image:
        side = self.start.processor.image_size
        return open_image(image).resize((side, side), Image.Resampling.BICUBIC)

    def measure(
        self, model: PaliGemmaForConditionalGeneration, accelerator: Accelerator, batch_size: int
    ) -> ValidationScores:
        """The scores of greedy answers.

        The samples are shared by the processes, and every one returns the same.
        """
        pg = PaliGemma(self.start, model)
        own = range(accelerator.process_index, len(self.samples), accelerator.num_processes)
        replies: list[tuple[int, Reply]] = []
        for first in range(0, len(own), batch_size):
            numbers = own[first : first + batch_size]
            images = [self.samples[number].images for number in numbers]
            prompts = [self.samples[number].prefix for number in numbers]
            replies += zip(numbers, pg.generate_batch(images, prompts, self.options), strict=True)
        ordered = [reply for _, reply in sorted(gather_object(replies), key=lambda pair: pair[0])]
        decode_masks = pg.masks if self.has_masks else lambda objects: [None] * len(objects)
        scored = score_answers(
            [sample.prefix for sample in self.samples],
            [sample.suffix for sample in self.samples],
            [reply.text for reply in ordered],
            [reply.detections for reply in ordered],
            decode_masks,
        )
        shown = [
            one
            for sample, reply in zip(self.samples[:SHOWN], ordered, strict=False)
            for one in (sample, replace(sample, suffix=reply.text))
        ]
        sheet = samples_sheet(shown, decode_masks, ("truth:", "answer:"))
        return ValidationScores(scored, sheet)
