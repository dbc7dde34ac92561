"""What the trainer trains: an objective, the batches it takes, and how the result is written."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from paligemma.checkpoints.resolve import Checkpoint
from paligemma.devices import best_device
from paligemma.models.frozen import quantize_frozen
from paligemma.models.mask_codec import MaskCodec
from paligemma.training.alignment import align_words
from paligemma.training.augment import Augmentation
from paligemma.training.auxiliary import PatchHeads
from paligemma.training.config import Run
from paligemma.training.data import (
    EveryRow,
    Mixture,
    MixtureBatches,
    SampleBatches,
    SampleOrder,
    SceneBatches,
    open_mask_codec,
    open_sources,
)
from paligemma.training.initialize import (
    at_resolution,
    attach_adapter,
    find_checkpoint,
    load_auxiliary,
    make_model,
    on_loc_grid,
    with_tokenizer,
    write_output,
)
from paligemma.training.mask_codec import MaskReconstruction, SilhouetteBatches
from paligemma.training.memory import (
    BLOCKS,
    MemoryNeed,
    check_memory,
    needed_memory,
    planned_model,
)
from paligemma.training.objectives import Objective, make_objective
from paligemma.training.sources import EVAL_SEED
from paligemma.training.validation import Validation


def is_sharded() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


class Job(Protocol):
    """What a run trains, on `batches`. `saves_all`: `write` needs frozen parameters too.

    `validation` is None where answers are not scored, `memory` where it is not known.
    """

    @property
    def objective(self) -> Objective: ...

    @property
    def batches(self) -> MixtureBatches: ...

    @property
    def eval_batches(self) -> MixtureBatches | None: ...

    @property
    def validation(self) -> Validation | None: ...

    @property
    def memory(self) -> MemoryNeed | None: ...

    @property
    def saves_all(self) -> bool: ...

    def write(self, state: dict[str, Tensor]) -> None:
        """Write the output of `state`, the objective's parameters and buffers by name."""
        ...


@dataclass(frozen=True)
class ModelJob:
    """A PaliGemma under one of `objectives`."""

    run: Run
    start: Checkpoint
    objective: Objective
    batches: MixtureBatches
    eval_batches: MixtureBatches | None
    validation: Validation | None
    memory: MemoryNeed | None

    @property
    def saves_all(self) -> bool:
        return self.run.lora is None or self.run.lora.merge

    def write(self, state: dict[str, Tensor]) -> None:
        write_output(self.run, self.start, state)


@dataclass(frozen=True)
class MaskCodecJob:
    """A mask codec."""

    run: Run
    objective: MaskReconstruction
    batches: MixtureBatches
    eval_batches: MixtureBatches | None
    validation: None = None
    memory: None = None
    saves_all: bool = True

    def write(self, state: dict[str, Tensor]) -> None:
        self.objective.cpu().load_state_dict(state)
        self.objective.sync_codebook()
        self.run.output_dir.mkdir(parents=True, exist_ok=True)
        self.objective.codec.save(self.run.output_dir / "mask_codec.npz")


def make_job(run: Run) -> Job:
    """Everything that a run trains and trains on. Raises ValueError for what cannot be trained."""
    if run.objective == "mask_codec":
        batches = SilhouetteBatches(make_mixture(run, "data", None), run.open_world(), run.seed)
        unseen = None
        if run.eval_data:
            mixture = make_mixture(run, "eval_data", None)
            unseen = SilhouetteBatches(mixture, batches.world, run.seed, EVAL_SEED)
        return MaskCodecJob(run, MaskReconstruction(run.seed), batches, unseen)
    found = find_checkpoint(run)
    start = with_tokenizer(found, run.tokenizer)
    start = at_resolution(start, run.resolution or found.config.vision_config.image_size)
    start = on_loc_grid(start, run.soft_loc_targets)
    if run.lora and not run.lora.merge and start.config != found.config:
        raise ValueError(
            "an adapter has the image size, loc_grid and loc_reach of its base: another "
            "resolution, or soft_loc_targets that change them, need lora.merge."
        )
    processor, grid = start.processor, start.config.vision_config.grid
    codec = open_mask_codec(run, start)
    if run.packing or run.objective == "patches":
        make = lambda mixture: SceneBatches(mixture, processor, grid, run, codec)
    else:
        limit, weights = run.max_text_tokens, run.loss_weights
        make = lambda mixture: SampleBatches(mixture, processor, limit, weights)
    batches = _batches(run, codec, make)
    if isinstance(batches[0], SampleBatches):
        # those to evaluate on stay as they are
        batches[0].augmentation = Augmentation(run.flip, run.crop, run.color_jitter)
        if run.objective != "answers":  # those compare one image with a text, or have none
            for one in filter(None, batches):
                cast(SampleBatches, one).max_images = 1
    shards = int(os.environ.get("WORLD_SIZE", 1)) if is_sharded() else 1
    memory = None
    if run.objective == "answers":
        memory = needed_memory(planned_model(run, start), run, shards)
    if memory and not is_sharded():
        check_memory(memory, run, best_device())
    model = make_model(run, found, start)
    if run.lora:
        attach_adapter(run, start, model)
    if run.quantize:
        quantize_frozen(model, run.quantize)
    if run.gradient_checkpointing:
        for block in (module for module in model.modules() if isinstance(module, BLOCKS)):
            block.forward = partial(recomputed, block.forward, use_reentrant=False)
    objective = make_objective(model, processor, run).train()
    has_heads = not run.is_new and load_auxiliary(objective, start.path)
    if run.auxiliary and run.auxiliary.align_words:
        if not has_heads:
            raise ValueError(
                f"align_words needs what a tower stage left; {start.name} has no heads"
            )
        heads = cast(PatchHeads, objective.patch_heads)
        align_words(model, heads, processor.tokenizer, run.open_world())
    validation = None
    if run.eval_metrics:
        assert batches[1] is not None
        validation = Validation(run, start, batches[1].mixture.sources, codec is not None)
    return ModelJob(run, start, objective, *batches, validation, memory)


def _batches(
    run: Run, codec: MaskCodec | None, make: Callable[[SampleOrder], MixtureBatches]
) -> tuple[MixtureBatches, MixtureBatches | None]:
    """The batches to train on and to evaluate on."""
    batches = make(make_mixture(run, "data", codec))
    return batches, make(make_mixture(run, "eval_data", codec)) if run.eval_data else None


def make_mixture(run: Run, field: str, codec: MaskCodec | None) -> SampleOrder:
    """The sources of a run's `field`: "data" mixed by their weights, or all of "eval_data".

    Raises ValueError if samples are invalid and are not to be skipped.
    """
    sources = open_sources(run, field, codec)
    invalid = {str(one) for source in sources for one in source.invalid}
    if invalid and run.on_invalid == "refuse":
        raise ValueError(
            f"{len(invalid)} samples cannot be trained on, such as {min(invalid)} "
            "Mend them, or set on_invalid to skip."
        )
    if field == "eval_data":
        return EveryRow(sources, run.seed)
    return Mixture(sources, [given.weight for given in run.data], run.seed)
