"""Make the built-in model: `python -m paligemma.training --out DIR`. Start it again to go on."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from paligemma.checkpoints.io import save_model
from paligemma.config import PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.models.mask_codec import MaskCodec
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor, processor_files
from paligemma.synthetic.language import examples
from paligemma.synthetic.scenes import sample
from paligemma.training import mask_codec as codec
from paligemma.training import tokenizer
from paligemma.training.builtin_trainer import STAGES, Trainer, initialise, order_locations
from paligemma.training.packing import PackedScenes
from paligemma.training.patch_heads import PatchHeads, PatchScenes

VISION = VisionConfig(
    hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=3,
    image_size=128, patch_size=16,
)  # fmt: skip


def text_config(vocabulary: int) -> TextConfig:
    return TextConfig(
        vocab_size=vocabulary, hidden_size=192, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=3, num_key_value_heads=1, head_dim=64, max_position_embeddings=1024,
    )  # fmt: skip


def sentences(scenes: int, seed: int) -> list[str]:
    """What the tokenizer learns from: prompts and answers without `<loc>` and without capitals."""
    rng = np.random.default_rng(seed)
    asked = [example for n in range(scenes) for example in examples(sample(n), rng)]
    texts = [text for example in asked for text in (example.prefix, example.suffix)]
    return [text for text in texts if "<loc" not in text and text == text.lower()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed
    out.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)  # numbers too small to matter take many times as long

    if not (out / "mask_codec.npz").exists():
        codec.fit(out / "mask_codec.npz", seed=seed)
    if not (out / "tokenizer.json").exists():
        tokenizer.train(sentences(4_000, seed)).save(str(out / "tokenizer.json"))
    words = tokenizer.Tokenizer.from_file(str(out / "tokenizer.json"))
    config = PaliGemmaConfig(
        vision_config=VISION,
        text_config=text_config(words.get_vocab_size()),
        projection_dim=192,
        image_token_index=words.token_to_id("<image>"),
    )
    processor = PaliGemmaProcessor(words, VISION.num_image_tokens, VISION.image_size)
    model = PaliGemmaForConditionalGeneration(config)
    initialise(model, seed)
    heads = PatchHeads(VISION.hidden_size)
    order_locations(model, [words.token_to_id(f"<loc{n:04d}>") for n in range(1024)])
    masks = MaskCodec.load(out / "mask_codec.npz")
    data = (
        PatchScenes(processor, VISION.grid, STAGES[0].batch, seed=1_000 * seed),
        PackedScenes(processor, config, masks, STAGES[1].batch, seed=1_000 * seed + 1),
    )
    for stage, scenes in zip(STAGES, data, strict=True):
        Trainer(stage, model, heads, scenes).run(out / f"{stage.name}.state")
    save_model(model.to(torch.bfloat16), out)
    for name, values in processor_files(config).items():
        (out / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
