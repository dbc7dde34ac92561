"""Train the built-in model: the tower first, then everything, on drawn scenes.

    python -m paligemma.training --out DIR

Muon turns the layers' matrices, AdamW the rest; bfloat16 is used where the CPU computes in it.
Every stage writes its state every few minutes and goes on from there when it is started again.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from paligemma.detections import value_to_loc
from paligemma.models.gemma import GemmaDecoder, rope_table
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor
from paligemma.synthetic.language import PIXELS, plural
from paligemma.synthetic.scenes import BACKGROUNDS, COLORS, KINDS
from paligemma.training import checkpoint
from paligemma.training.mask_codec import cosine
from paligemma.training.muon import Muon
from paligemma.training.packing import Packed, PackedScenes
from paligemma.training.patch_heads import Patches, PatchHeads, PatchScenes, word_loss
from paligemma.training.text_heads import (
    LAYER,
    TOLD_LAYER,
    GroundingHead,
    NextGroupHead,
    name_numbers,
)

PATCH_WEIGHT = 0.125  # of the patch heads' loss while the whole model learns
WORD_WEIGHT = 0.25  # of the loss that makes image tokens look like their words
NAME_WEIGHT = 1.0  # of the names' head
TOLD_WEIGHT = 0.25  # of the head on what a caption tells next
WARM_UP = 100  # steps
NATIVE_BFLOAT16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
SAVE_EVERY = 200  # steps


@dataclass(frozen=True)
class Stage:
    """One stage of training. Rates are peaks; `tower` scales them for the tower."""

    name: str
    steps: int
    batch: int
    muon: float
    adamw: float
    tower: float = 1.0


STAGES = (
    Stage("tower", steps=1_100, batch=64, muon=8e-3, adamw=3e-3),
    Stage("whole", steps=5_400, batch=32, muon=6e-3, adamw=2e-3, tower=0.25),
)


def initialise(model: nn.Module, seed: int) -> None:
    """Unit variance through every matrix but two sorts, which start smaller.

    Those are the ones that end a residual branch, and the decoder's queries: a text token that
    looks at everything evenly can learn to look at the picture, one that looks at itself cannot.
    """
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.constant_(parameter, float("vision_tower" in name and name.endswith("weight")))
        elif parameter.ndim == 1:
            nn.init.zeros_(parameter)
        else:
            fan_in = parameter[0].numel()
            ends = any(part in name for part in ("o_proj", "out_proj", "fc2", "down_proj"))
            scale = 0.3 if ends or ("language_model" in name and "q_proj" in name) else 1
            nn.init.normal_(parameter, std=fan_in**-0.5 * scale)
    nn.init.normal_(model.vision_tower.embeddings.position_embedding.weight, std=0.3)


def order_locations(model: PaliGemmaForConditionalGeneration, loc_ids: list[int]) -> None:
    """Start the `<loc>` rows of the table as waves, so that neighbours begin alike."""
    table = model.language_model.embed_tokens.weight
    width = table.shape[1]
    place = torch.linspace(0, 1, len(loc_ids))[:, None]
    waves = 2 ** torch.linspace(0, 7, width // 2) * torch.pi / 2
    rows = torch.cat([(place * waves).sin(), (place * waves).cos()], 1)
    with torch.no_grad():
        table[loc_ids] = rows * table.std() / rows.std()


def soft_targets(processor: PaliGemmaProcessor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """What counts as right for each token: `ids`, `weights` [V, 7], rows summing to 1.

    A `<loc>` shares its weight with the three pixels on either side (sigma one pixel).
    """
    ids = torch.arange(vocabulary)[:, None].repeat(1, 7)
    weights = torch.zeros(vocabulary, 7)
    weights[:, 3] = 1
    locs = [processor.tokenizer.token_to_id(f"<loc{n:04d}>") for n in range(1024)]
    offsets = torch.arange(-3, 4)
    for pixel in range(PIXELS + 1):
        near = (pixel + offsets).clamp(0, PIXELS).tolist()
        row = locs[value_to_loc(pixel / PIXELS)]
        ids[row] = torch.tensor([locs[value_to_loc(n / PIXELS)] for n in near])
        weights[row] = torch.softmax(-0.5 * offsets.float() ** 2, 0)
    return ids, weights


def _trunk(
    decoder: GemmaDecoder, x: Tensor, positions: Tensor, mask: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """What `decoder` returns [B, T, D], and its hidden states after every layer."""
    rope = rope_table(positions, decoder.config.head_dim, decoder.config.rope_theta)
    states = []
    for layer in decoder.layers:
        x = layer(x, rope, mask, None, None)
        states.append(x)
    return decoder.norm(x), states


def _step_back(_: int) -> None:
    """A worker draws pictures in what time the model's threads leave."""
    os.nice(10)


class Trainer:
    """One stage: the model, its heads, two optimizers, and the loop."""

    def __init__(
        self,
        stage: Stage,
        model: PaliGemmaForConditionalGeneration,
        heads: PatchHeads,
        data: PatchScenes | PackedScenes,
    ):
        self.stage, self.model, self.heads, self.data = stage, model, heads, data
        self.soft = soft_targets(data.processor, model.config.text_config.vocab_size)
        self.names = GroundingHead(model.config.text_config.hidden_size)
        self.told = NextGroupHead(model.config.text_config.hidden_size)
        self.numbers = name_numbers(data.processor.tokenizer)
        token = data.processor.tokenizer.token_to_id
        names = (KINDS, [plural(kind) for kind in KINDS], COLORS, BACKGROUNDS)
        self.words = [torch.tensor([token(f"▁{word}") for word in row]) for row in names]
        self.tower = torch.compile(model.vision_tower)
        self.trunk = torch.compile(_trunk)
        trained = model.vision_tower if stage.name == "tower" else model
        self.trained = (model, heads, self.names, self.told)
        helpers = [p for head in self.trained[1:] for p in head.parameters()]
        matrices, rest = [], [{"params": helpers, "peak": stage.adamw}]
        for name, parameter in trained.named_parameters():
            tower = stage.name == "tower" or name.startswith("vision_tower")
            is_matrix = parameter.ndim == 2 and ".layers." in f".{name}"
            rate = (stage.muon if is_matrix else stage.adamw) * (stage.tower if tower else 1)
            (matrices if is_matrix else rest).append({"params": [parameter], "peak": rate})
        self.optimizers = {
            "muon": Muon(matrices),
            "adamw": torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        }

    def loss(self, batch: Patches | Packed) -> tuple[Tensor, Tensor]:
        """The weighted mean over answer tokens, and what the throw-away heads add to it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=NATIVE_BFLOAT16):
            features = self.tower(batch.pixel_values)
            patch_loss = self.heads(features, batch.patches)
            if self.stage.name == "tower":
                return torch.zeros(()), patch_loss
            x = self.model.embed_tokens(batch.input_ids)
            images = self.model.multi_modal_projector(features)
            table = self.model.language_model.embed_tokens.weight
            said = word_loss(images, table, self.words, batch.patches)
            x = torch.cat([images.to(x.dtype), x[:, images.shape[1] :]], 1)
            decoder = self.model.language_model
            hidden, states = self.trunk(decoder, x, batch.positions, batch.mask())
            named = self.numbers[batch.input_ids] * ~batch.is_suffix
            placed = self.names(states[LAYER], named, batch.places)
            told = self.told(states[TOLD_LAYER], batch.upcoming)
            counted = batch.weights > 0
            logits = self.model.logits(hidden[counted])
        ids, weights = (each[batch.targets[counted]] for each in self.soft)
        likely = F.log_softmax(logits.float(), -1).gather(1, ids)
        importance = batch.weights[counted]
        answer_loss = -((likely * weights).sum(1) * importance).sum() / importance.sum()
        helped = PATCH_WEIGHT * patch_loss + WORD_WEIGHT * said + NAME_WEIGHT * placed
        return answer_loss, helped + TOLD_WEIGHT * told

    def run(self, state_path: Path) -> None:
        """Take every step that is left, saving to `state_path`."""
        first = self.load(state_path) if state_path.exists() else 0
        loader = DataLoader(
            self.data,
            batch_size=None,
            sampler=range(first, self.stage.steps),
            num_workers=2,
            prefetch_factor=3,
            worker_init_fn=_step_back,
        )
        smooth, start = None, time.time()
        for step, batch in enumerate(loader, first):
            factor = min(1, (step + 1) / WARM_UP) * cosine(step / self.stage.steps)
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
            answer_loss, patch_loss = self.loss(batch)
            (answer_loss + patch_loss).backward()
            parameters = [p for module in self.trained for p in module.parameters()]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in self.optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
            losses = torch.stack([answer_loss.detach(), patch_loss.detach()])
            smooth = losses if smooth is None else 0.98 * smooth + 0.02 * losses
            if (step + 1) % 50 == 0:
                rate = (step + 1 - first) * self.stage.batch / (time.time() - start)
                print(f"{self.stage.name} {step + 1}/{self.stage.steps} answers {smooth[0]:.4f} "
                      f"patches {smooth[1]:.4f} {rate:.0f} pictures/s", flush=True)  # fmt: skip
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == self.stage.steps:
                self.save(state_path, step + 1)

    def save(self, path: Path, step: int) -> None:
        state = {"step": step, "model": self.model.state_dict()}
        state |= {"heads": self.heads.state_dict(), "names": self.names.state_dict()}
        state |= {"told": self.told.state_dict()}
        state |= {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        checkpoint.save(path, state)

    def load(self, path: Path) -> int:
        """Read the state; return the number of steps it has taken."""
        state = checkpoint.load(path)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.names.load_state_dict(state["names"])
        self.told.load_state_dict(state["told"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
        return state["step"]
