"""How much a tower stage sees: python scripts/tower_names.py runs/builtin/6-sticker-tower

The kind that the tower's auxiliary heads give the patches of each thing, in unseen scenes of the
world of drawings: by known artists, and by those that are never trained on. Needs the atlas of
`paligemma data fetch-stickers`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma.checkpoints.resolve import resolve
from paligemma.synthetic.drawings import OPTIONS, Drawings
from paligemma.training.initialize import AUXILIARY

FIRST_SEED = 3_000_000
ARTISTS = {"known artists": None, "twemoji": ("twemoji",), "openmoji": ("openmoji",)}
LARGE = 6  # patches


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=250)
    arguments = parser.parse_args()
    found = resolve(arguments.folder)
    tower, processor = found.load_model("cpu", torch.float32).vision_tower, found.processor
    heads = load_file(arguments.folder / AUXILIARY)
    weight, bias = (heads[f"patch_heads.kind.{name}"].float() for name in ("weight", "bias"))
    for name, artists in ARTISTS.items():
        options = OPTIONS.as_drawn(artists)
        world = Drawings(options, pictograms=0)
        scenes = [world.scene(FIRST_SEED + number) for number in range(arguments.scenes)]
        labels = world.patch_labels(scenes, found.config.vision_config.grid)
        features = tower(processor.pixel_values(world.images(scenes, options.size)))
        scores = (features @ weight.T + bias).log_softmax(-1)[..., 1:]
        right, large = [], []
        for score, kind, box, scene in zip(scores, labels.kind, labels.box, scenes, strict=True):
            for item in scene.items:
                shows = (box - torch.tensor(item.box)).abs().sum(-1) < 1e-4
                if shows.any():
                    number = int(kind[shows][0]) - 1
                    right.append(int(score[shows].sum(0).argmax()) == number)
                    large.append(int(shows.sum()) >= LARGE)
        well = np.array(right)[np.array(large)]
        print(
            f"{name:14} {np.mean(right):.3f} of {len(right)} things named right, "
            f"{well.mean():.3f} of {len(well)} of {LARGE} patches and more"
        )


if __name__ == "__main__":
    main()
