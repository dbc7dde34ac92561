"""What the trainer trains: an objective, the batches it takes, and how the result is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed
from torch.utils.data import Dataset

from paligemma.checkpoints import hub
from paligemma.checkpoints import lora as adapters
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.models import gemma, siglip
from paligemma.models.mask_codec import MaskCodec
from paligemma.training.config import CocoData, NewModel, Run, SyntheticData
from paligemma.training.data import Mixture, SampleBatches, SceneBatches, open_sources
from paligemma.training.initialize import (
    adapter_config,
    at_resolution,
    find_checkpoint,
    load_auxiliary,
    make_model,
    write_output,
)
from paligemma.training.mask_codec import MaskReconstruction, SilhouetteBatches
from paligemma.training.objectives import Objective, make_objective
from paligemma.training.sources import Source

# What is recomputed, and sharded, as a unit.
BLOCKS = (siglip.SiglipEncoderLayer, gemma.GemmaDecoderLayer)


class Job(Protocol):
    """What a run trains.

    `batches[step, numbers]` is the micro-batch of the samples of these numbers. `mixture` holds the
    sources. `saves_all`: `write` needs frozen parameters too.
    """

    @property
    def objective(self) -> Objective: ...

    @property
    def batches(self) -> Dataset: ...

    @property
    def mixture(self) -> Mixture: ...

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
    batches: Dataset
    mixture: Mixture

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
    batches: Dataset
    mixture: Mixture
    saves_all: bool = True

    def write(self, state: dict[str, Tensor]) -> None:
        self.objective.cpu().load_state_dict(state)
        self.objective.sync_codebook()
        self.run.output_dir.mkdir(parents=True, exist_ok=True)
        self.objective.codec.save(self.run.output_dir / "mask_codec.npz")


def make_job(run: Run) -> Job:
    """Everything that a run trains and trains on. Raises ValueError for what cannot be trained."""
    if run.objective == "mask_codec":
        mixture = make_mixture(run, open_sources(run, None))
        batches = SilhouetteBatches(mixture, run.open_world(), run.seed)
        return MaskCodecJob(run, MaskReconstruction(run.seed), batches, mixture)
    found = find_checkpoint(run)
    start = at_resolution(found, run.resolution or found.config.vision_config.image_size)
    codec = _codec(run, start)
    mixture = make_mixture(run, open_sources(run, codec))
    model = make_model(run, found, start.config)
    if run.lora:
        adapters.attach(model, adapter_config(run))
    if run.gradient_checkpointing:
        for block in (module for module in model.modules() if isinstance(module, BLOCKS)):
            block.forward = partial(recomputed, block.forward, use_reentrant=False)
    objective = make_objective(model, start.processor, run).train()
    if not (run.random_init or isinstance(run.model, NewModel)):
        load_auxiliary(objective, start.path)
    if run.packing or run.objective == "patches":
        grid = start.config.vision_config.grid
        batches = SceneBatches(mixture, start.processor, grid, run, codec)
    else:
        batches = SampleBatches(mixture, start.processor, run.max_text_tokens, run.loss_weights)
    return ModelJob(run, start, objective, batches, mixture)


def make_mixture(run: Run, sources: Sequence[Source]) -> Mixture:
    """The sources mixed by their weights. Raises ValueError where invalid samples are refused."""
    invalid = {str(one) for source in sources for one in source.invalid}
    if invalid and run.on_invalid == "refuse":
        raise ValueError(
            f"{len(invalid)} samples cannot be trained on, such as {min(invalid)} "
            "Mend them, or set on_invalid to skip."
        )
    return Mixture(sources, [given.weight for given in run.data], run.seed)


def _codec(run: Run, start: Checkpoint) -> MaskCodec | None:
    """The mask codec, where the data need it."""
    if run.objective == "patches":
        return None
    for given in run.data:
        if isinstance(given, SyntheticData) or (
            isinstance(given, CocoData) and given.task == "segment"
        ):
            return MaskCodec.load(start.mask_codec or hub.fetch_mask_codec())
    return None
