"""The model that a run starts from, loaded or fresh, and the files that it leaves behind."""

import shutil
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.checkpoints import lora as adapters
from paligemma.checkpoints.io import save_model, write_json, write_text
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.config import PaliGemmaConfig
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor, processor_files
from paligemma.training.builtin_trainer import initialise
from paligemma.training.config import Run

POSITIONS = "vision_tower.embeddings.position_embedding.weight"


def resample(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings [P, D] of a square picture -> [grid², D], bilinear, corners on corners.

    As big_vision does (`models/vit.py`, resample_posemb: scipy's zoom of order 1).
    """
    side = round(len(positions) ** 0.5)
    square = positions.T.reshape(1, -1, side, side)
    wide = F.interpolate(square.float(), (grid, grid), mode="bilinear", align_corners=True)
    return wide[0].flatten(1).T.to(positions.dtype).contiguous()


def at_resolution(config: PaliGemmaConfig, side: int) -> PaliGemmaConfig:
    """The same sizes for pictures of `side` pixels; ValueError where patches do not fill it."""
    return replace(config, vision_config=replace(config.vision_config, image_size=side))


def start(run: Run, found: Checkpoint) -> tuple[PaliGemmaForConditionalGeneration, Checkpoint]:
    """The model in float32, and the checkpoint with config and processor as the run has them."""
    if found.adapter is not None:
        raise ValueError(f"{found.name} is an adapter; train on its base, or on a merged model.")
    side = run.resolution or found.config.vision_config.image_size
    config = at_resolution(found.config, side)
    if run.fresh:
        model = PaliGemmaForConditionalGeneration(config)
        initialise(model, run.seed)
    else:
        model = found.load_model("cpu", torch.float32)
        if side != found.config.vision_config.image_size:
            state = model.state_dict()
            state[POSITIONS] = resample(state[POSITIONS], config.vision_config.grid)
            with torch.device("meta"):
                model = PaliGemmaForConditionalGeneration(config)
            model.load_state_dict(state, assign=True)
    # its own memory: what was mapped from the file could not be trained in place
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    processor = PaliGemmaProcessor(
        found.processor.tokenizer, config.vision_config.num_image_tokens, side
    )
    return model.requires_grad_(True), replace(found, config=config, processor=processor)


def lora_config(run: Run):
    """peft's config of the run's adapter."""
    return adapters.lora_config(run.model, run.lora.rank, run.lora.alpha, run.lora.targets)


def write(run: Run, found: Checkpoint, state: dict[str, Tensor]) -> None:
    """The output: a checkpoint that `PaliGemma.load` and transformers read, or an adapter.

    `state` holds the trained parameters by name, float32; the others are those of `found`.
    """
    model, start_from = start(run, found)
    dtype = torch.bfloat16 if run.dtype == "bfloat16" else torch.float32
    if run.lora:
        folder = run.out / "adapter" if run.lora.merge else run.out
        adapters.save(folder, lora_config(run), state)
        if not run.lora.merge:
            return
        adapters.merge(model, folder)
    else:
        whole = model.state_dict() | state
        model.load_state_dict(whole, assign=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    save_model(model, run.out)
    for name, values in processor_files(start_from.config).items():
        write_json(run.out / name, values)
    write_text(run.out / "tokenizer.json", found.processor.tokenizer.to_str(pretty=True))
    if found.mask_codec is not None and found.mask_codec.parent != run.out:
        shutil.copyfile(found.mask_codec, run.out / found.mask_codec.name)
