"""The model that a run starts from, loaded or new, and the files that it leaves behind."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from paligemma.checkpoints import lora as adapters
from paligemma.checkpoints.io import save_model, write_processor_files, write_text
from paligemma.checkpoints.lora import Adapter
from paligemma.checkpoints.resolve import MASK_CODEC, Checkpoint, resolve
from paligemma.config import PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.detections import LAST_LOC
from paligemma.devices import best_device, best_dtype
from paligemma.models.init import initialize, order_locations
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor
from paligemma.tokenizer_file import read_tokenizer
from paligemma.training.config import NewModel, Run, SoftLocTargets

POSITIONS = "vision_tower.embeddings.position_embedding.weight"
EMBEDDINGS = "language_model.embed_tokens.weight"
AUXILIARY = "auxiliary.safetensors"  # heads that a next stage can go on with
WORD_HEADS = {"patch_heads.kind.weight", "patch_heads.color.weight"}
HEADS = ("patch_heads.", "grounding_head.", "next_group_head.")


def resample(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings [P, D] of a square image -> [grid², D], bilinear, corners on corners.

    As big_vision does (`models/vit.py`, resample_posemb: scipy's zoom of order 1).
    """
    side = round(len(positions) ** 0.5)
    square = positions.T.reshape(1, -1, side, side)
    wide = F.interpolate(square.float(), (grid, grid), mode="bilinear", align_corners=True)
    return wide[0].flatten(1).T.to(positions.dtype).contiguous()


def find_checkpoint(run: Run) -> Checkpoint:
    """What a run starts from: a checkpoint, or the sizes of a new one. No weights yet.

    It may be an adapter: with `lora` that one is trained further, else the merged model.
    """
    if isinstance(run.model, NewModel):
        return _new_checkpoint(run.model)
    return resolve(run.model, base=run.lora.base if run.lora else None)


def at_resolution(found: Checkpoint, side: int) -> Checkpoint:
    """The checkpoint for images of `side` pixels. Raises ValueError if patches do not fill them."""
    vision = replace(found.config.vision_config, image_size=side)
    return _with_config(found, replace(found.config, vision_config=vision))


def on_loc_grid(found: Checkpoint, given: SoftLocTargets | None) -> Checkpoint:
    """The checkpoint of a model that is trained on the grid of `given`, if there is one, and whose
    locations reach as far, where no grid keeps them apart."""
    if given is None:
        return found
    grid = given.grid_of(found.config.vision_config.image_size)
    if grid != LAST_LOC:
        return _with_config(found, replace(found.config, loc_grid=grid, loc_reach=None))
    return _with_config(found, replace(found.config, loc_grid=None, loc_reach=given.reach))


def _with_config(found: Checkpoint, config: PaliGemmaConfig) -> Checkpoint:
    vision = config.vision_config
    processor = PaliGemmaProcessor(
        found.processor.tokenizer, vision.num_image_tokens, vision.image_size, config.loc_grid
    )
    return replace(found, config=config, processor=processor)


def with_tokenizer(found: Checkpoint, path: Path | None) -> Checkpoint:
    """The checkpoint with the tokenizer at `path`, if there is one, and a vocabulary as large."""
    if path is None:
        return found
    tokenizer = read_tokenizer(_tokenizer_file(path))
    vision = found.config.vision_config
    processor = PaliGemmaProcessor(tokenizer, vision.num_image_tokens, vision.image_size)
    text = replace(found.config.text_config, vocab_size=tokenizer.get_vocab_size())
    config = replace(found.config, text_config=text, **_token_numbers(processor))
    return _with_config(replace(found, processor=processor), config)


def _token_numbers(processor: PaliGemmaProcessor) -> dict[str, int]:
    """What a config says of a tokenizer."""
    return {
        "image_token_index": processor.image_token_id,
        "pad_token_id": processor.pad_token_id,
        "eos_token_id": processor.eos_token_id,
        "bos_token_id": processor.bos_token_id,
    }


def with_vocabulary(table: Tensor, before: Tokenizer, after: Tokenizer, seed: int) -> Tensor:
    """The embeddings [V, D] for the tokens of `after`, from those of `before`.

    Tokens of both keep theirs. New ones are random, around the mean of the words and as far apart.
    """
    known = before.get_vocab()
    words = table[[number for token, number in known.items() if _is_word(token)]]
    shape = (after.get_vocab_size(), table.shape[1])
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    rows = words.mean(0) + words.std(0) * rows
    for token, number in after.get_vocab().items():
        if token in known:
            rows[number] = table[known[token]]
    return rows.to(table.dtype)


def _is_word(token: str) -> bool:
    return len(token) > 2 and token.strip("▁").isalpha()


def _tokenizer_file(path: Path) -> Path:
    """`path`, or the tokenizer.json in it. Raises ValueError if there is none."""
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"There is no tokenizer at {path}.")
    return path


def _new_checkpoint(given: NewModel) -> Checkpoint:
    """A checkpoint without weights: the sizes of the config, and the tokenizer's vocabulary."""
    path = _tokenizer_file(given.tokenizer)
    if given.mask_codec and not given.mask_codec.is_file():
        raise ValueError(f"There is no mask codec at {given.mask_codec}.")
    tokenizer = read_tokenizer(path)
    vision = VisionConfig(**given.vision_config)
    sizes: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size()} | given.text_config
    text = TextConfig(**sizes)
    if text.vocab_size < tokenizer.get_vocab_size():
        raise ValueError(
            f"text_config.vocab_size is {text.vocab_size}, but {path} has "
            f"{tokenizer.get_vocab_size()} tokens."
        )
    processor = PaliGemmaProcessor(tokenizer, vision.num_image_tokens, vision.image_size)
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=text.hidden_size,
        **_token_numbers(processor),
    )
    return Checkpoint("new", path.parent, config, processor, given.mask_codec)


def compute_dtype(run: Run) -> torch.dtype:
    """What the run computes in."""
    if run.dtype == "auto":
        return best_dtype(best_device())
    return torch.bfloat16 if run.dtype == "bfloat16" else torch.float32


def base_dtype(run: Run) -> torch.dtype:
    """What weights are kept in: float32 where they are trained, else what is computed in."""
    return compute_dtype(run) if run.lora else torch.float32


def make_model(run: Run, found: Checkpoint, start: Checkpoint) -> PaliGemmaForConditionalGeneration:
    """The model of `start` in `base_dtype`, its weights random or those of `found`.

    An adapter that is trained further is not merged: see `attach_adapter`.
    """
    config = start.config
    if run.is_new:
        model = PaliGemmaForConditionalGeneration(config)
        initialize(model, run.seed)
        vocabulary = found.processor.tokenizer.get_vocab()
        loc_ids = [vocabulary[f"<loc{number:04d}>"] for number in range(1024)]
        order_locations(model.language_model.embed_tokens.weight, loc_ids)
        return model
    base = replace(found, adapter=None) if run.lora else found
    model = base.load_model("cpu", base_dtype(run))
    if not run.lora:  # what was mapped from the file could not be trained in place
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    if run.tokenizer or found.config.vision_config != config.vision_config:
        state = model.state_dict()
        if found.config.vision_config != config.vision_config:
            state[POSITIONS] = resample(state[POSITIONS], config.vision_config.grid)
        if run.tokenizer:
            before, after = found.processor.tokenizer, start.processor.tokenizer
            state[EMBEDDINGS] = with_vocabulary(state[EMBEDDINGS], before, after, run.seed)
        with torch.device("meta"):
            model = PaliGemmaForConditionalGeneration(config)
        model.load_state_dict(state, assign=True)
    return model.requires_grad_(True)


def load_auxiliary(objective: nn.Module, folder: Path) -> bool:
    """Go on with those auxiliary heads of the stage before that fit, where it left any.

    Returns whether those that know the names of this world are among them.
    """
    if not (folder / AUXILIARY).is_file():
        return False
    own = objective.state_dict()
    saved = load_file(folder / AUXILIARY)
    fits = {
        name: value
        for name, value in saved.items()
        if name in own and own[name].shape == value.shape
    }
    objective.load_state_dict(fits, strict=False)
    return fits.keys() >= WORD_HEADS


def attach_adapter(run: Run, start: Checkpoint, model: nn.Module) -> None:
    """Add the run's adapter to the model, which is all that is trained then."""
    adapters.attach(model, run_adapter(run, start), start.adapter)


def run_adapter(run: Run, start: Checkpoint) -> Adapter:
    """The adapter that a run trains. A base in a folder is named by its absolute path.

    Raises ValueError if the run starts from an adapter that `lora` contradicts.
    """
    assert run.lora
    given, base = run.lora, start.base or start.source
    path = Path(base).expanduser()
    base = str(path.absolute()) if path.exists() else base
    fields = given.model_dump(exclude={"merge", "base"})
    if start.adapter is None:
        return Adapter(base, **fields)
    found = adapters.read_adapter(start.adapter)
    for name in sorted(given.model_fields_set & fields.keys() - {"dropout"}):
        asked, there = getattr(given, name), getattr(found, name)
        if isinstance(asked, tuple):
            asked, there = sorted(asked), sorted(there or ())
        if asked != there:
            raise ValueError(
                f"lora.{name} is {asked}, but the adapter {start.adapter} has {there}: leave it "
                "out to train that adapter further."
            )
    if found.target_modules is None or found.partial or "." in "".join(found.target_modules):
        found = found.on_modules(adapters.adapted_modules(start.adapter))  # in names of any layout
    return replace(found, base=base, dropout=given.dropout)


def write_output(run: Run, start: Checkpoint, state: dict[str, Tensor]) -> None:
    """Write a checkpoint that `PaliGemma.load` and transformers read, or an adapter.

    `state` holds the parameters of the objective by name: all, or of an adapter those trained.
    """
    weights = {
        name.removeprefix("model."): value
        for name, value in state.items()
        if name.startswith("model.")
    }
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(start.config)
    if run.lora:
        adapter = run_adapter(run, start)
        with torch.device("meta"):
            names = adapters.attach(model, adapter)
        folder = run.output_dir / "adapter" if run.lora.merge else run.output_dir
        adapters.save(folder, adapter, {name: weights[name] for name in names})
        if not run.lora.merge:
            return
    model.load_state_dict(weights, assign=True)
    if run.lora:
        adapters.fold(model)
    save_dtype = run.save_dtype or run.dtype
    model.to(torch.bfloat16 if save_dtype == "bfloat16" else torch.float32)
    save_model(model, run.output_dir)
    write_processor_files(start.config, run.output_dir)
    tokenizer = start.processor.tokenizer.to_str(pretty=True)
    write_text(run.output_dir / "tokenizer.json", tokenizer)
    mask_codec = run.output_dir / MASK_CODEC
    if start.mask_codec is not None and start.mask_codec != mask_codec:
        shutil.copyfile(start.mask_codec, mask_codec)
    heads = {name: value.contiguous() for name, value in state.items() if name.startswith(HEADS)}
    if heads:
        if (
            not run.is_new and (start.path / AUXILIARY).is_file()
        ):  # those that this stage has no use for stay
            heads = load_file(start.path / AUXILIARY) | heads
        save_file(heads, run.output_dir / AUXILIARY)
