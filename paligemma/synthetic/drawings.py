"""The world of drawings: pictograms, and stickers by many artists, in the language of pictograms.

A model that knows the pictograms learns some hundred more things here, in colors and by other
artists, and forgets nothing: a share of the scenes are of pictograms (`varied_pictograms.py`), the
others of stickers (`compose.py`), and the same is said about both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paligemma.detections import Box
from paligemma.synthetic import language
from paligemma.synthetic.kinds import kind_number
from paligemma.synthetic.phrases.facts import said_color
from paligemma.synthetic.scene_options import SceneOptions
from paligemma.synthetic.scenes import CHARACTERS as CAPITALS
from paligemma.synthetic.scenes import KINDS, Item, Scene
from paligemma.synthetic.sticker_world import DrawnScene, SceneMask, Stickers
from paligemma.synthetic.varied_pictograms import VariedPictograms
from paligemma.synthetic.world import PatchLabels, SceneSample

# What all artists of the training drew in colors, and whose name takes a plain article.
STICKERS = tuple(
    name.strip()
    for name in """
    dog, hamster, rabbit, bear, panda, koala, tiger, pig, frog, chicken, chick, bird, penguin, wolf,
    sheep, goat, camel, elephant, crocodile, turtle, snake, whale, dolphin, fish, octopus, snail,
    caterpillar, ant, bee, ladybug, squirrel, rose, tulip, sunflower, bouquet,
    palm tree, cactus, seedling, maple leaf, leaf, mushroom, apple, pear, tangerine, lemon,
    watermelon, strawberry, cherry, peach, tomato, chicken leg, hamburger, pizza, fried egg,
    ice cream, donut, cookie, cake, honey pot, cocktail, car, taxi, police car, ambulance,
    fire truck, bus, truck, tractor, bicycle, locomotive, train, helicopter, rocket, speedboat,
    office building, hospital, circus tent, stone head, rain cloud, snowman, fire, drop, globe,
    shell, wrench, screw, bomb, flashlight, telescope, microscope, magnifying glass, syringe, pill,
    palette, guitar, violin, trumpet, saxophone, piano, shirt, dress, handbag, purse, backpack,
    briefcase, shoe, sneaker, high heel, boot, hat, graduation cap, ring, watch, basketball,
    football, baseball, pool ball, target, fishing rod, dice, door, toilet, bathtub, shower,
    hourglass, lantern, mailbox, box, baby bottle, bell, crystal ball, television, radio,
    microphone, battery, plug, floppy disk, satellite dish, traffic light, gas pump, book,
    open book, newspaper, clipboard, folder, calendar, scroll, paperclip, pen, bar chart,
    credit card, money bag, banknote, clapperboard, balloon, present, pumpkin, ghost, alien
    """.replace("\n", " ").split(",")
)
PICTOGRAMS = 0.35  # the share of scenes of pictograms
READING = 0.5  # the weight of words in many fonts, which are hard to read in so few pixels
FREQUENT = 25  # repeats of a word that make it a token
# At most four things, as many as the language counts; as large as the model's images.
OPTIONS = SceneOptions(
    size=192, kinds=(*KINDS, *STICKERS), counts=(0.04, 0.26, 0.28, 0.24, 0.18), texts=0.6,
    overlaps=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Sticker(SceneMask):
    """An object of a composed scene, as `language` speaks of it."""

    @property
    def kind(self) -> str:
        return self.scene.objects[self.number].name

    @property
    def color(self) -> str:
        return said_color(self.scene.objects[self.number])

    @property
    def box(self) -> Box:
        return self.scene.objects[self.number].box

    @property
    def x(self) -> float:
        return self.scene.objects[self.number].centre[0]

    @property
    def y(self) -> float:
        return self.scene.objects[self.number].centre[1]


@dataclass(frozen=True)
class StickerText:
    """A written line and the height of its middle."""

    text: str
    y: float


@dataclass(frozen=True)
class StickerScene(DrawnScene):
    """A composed scene with its image, as `language` speaks of it."""

    @property
    def background(self) -> str:
        return self.scene.background

    @property
    def items(self) -> tuple[Sticker, ...]:
        return tuple(Sticker(self.scene, number) for number in range(len(self.scene.objects)))

    @property
    def texts(self) -> tuple[StickerText, ...]:
        middle = lambda text: (text.box[1] + text.box[3]) / 2
        return tuple(StickerText(text.text, middle(text)) for text in self.scene.texts)


class Drawings(VariedPictograms):
    """A `World` of pictograms, a share `pictograms` of the scenes, and of stickers.

    `options`: what the scenes of stickers are like; of `OPTIONS.kinds`, and at most four things.
    """

    kinds: Sequence[str] = (*KINDS, *STICKERS)
    colors = Stickers.colors
    backgrounds = Stickers.backgrounds
    characters = CAPITALS + "".join(c for c in Stickers.characters if c not in CAPITALS)

    def __init__(self, options: SceneOptions = OPTIONS, pictograms: float = PICTOGRAMS) -> None:
        self.stickers, self.pictograms = Stickers(options), pictograms

    def scene(self, seed: int) -> Scene | StickerScene:
        if np.random.default_rng((seed, 3)).random() < self.pictograms:
            return super().scene(seed)
        drawn = self.stickers.scene(seed)
        return StickerScene(drawn.scene, drawn.image)

    def images(self, scenes: Sequence[Scene | StickerScene], side: int) -> list[Image.Image]:
        """Those of stickers as they were composed, whatever the `side`."""
        return [
            self.stickers.images([scene], side)[0]
            if isinstance(scene, StickerScene)
            else super(Drawings, self).images([scene], side)[0]
            for scene in scenes
        ]

    def samples(self, scene: Scene | StickerScene, rng: np.random.Generator) -> list[SceneSample]:
        asked = super().samples(scene, rng)
        if isinstance(scene, StickerScene):
            asked = [
                replace(one, spelled=True, weight=READING) if one.task == "read" else one
                for one in asked
            ]
        return asked

    def crop(self, thing: Item | Sticker, box: Box) -> np.ndarray:
        if isinstance(thing, Sticker):
            return self.stickers.crop(thing, box)
        return super().crop(thing, box)

    def silhouettes(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        pictograms = VariedPictograms()
        worlds = (pictograms if rng.random() < self.pictograms else self.stickers for rng in rngs)
        masks = (world.silhouettes([rng]) for world, rng in zip(worlds, rngs, strict=True))
        return np.concatenate(list(masks))

    def patch_labels(self, scenes: Sequence[Scene | StickerScene], grid: int) -> PatchLabels:
        labels = [
            _renumbered(self.stickers.patch_labels([scene], grid))
            if isinstance(scene, StickerScene)
            else super(Drawings, self).patch_labels([scene], grid)
            for scene in scenes
        ]
        return PatchLabels(*(torch.cat(field) for field in zip(*labels, strict=True)))

    def texts(self, scenes: int, seed: int) -> list[str]:
        """What is said of pictograms, then every name by itself and after a space, and colors."""
        names = [form for kind in self.kinds for form in (kind, language.plural(kind))]
        words = [word for name in names for word in (name, f" {name}")]
        words += ["nothing", *(f" {color}" for color in (*self.colors, *self.backgrounds))]
        said = VariedPictograms.texts(Drawings(pictograms=1), scenes, seed)
        return [*said, *(words * FREQUENT)]


def _renumbered(labels: PatchLabels) -> PatchLabels:
    """The labels of stickers in the numbers of `Drawings`."""
    kinds, characters = _numbers()
    return labels._replace(kind=kinds[labels.kind], characters=characters[labels.characters])


@cache
def _numbers() -> tuple[Tensor, Tensor]:
    """From the numbers of kinds and characters in `Stickers` to this world's."""
    kinds = torch.zeros(len(Stickers.kinds) + 1, dtype=torch.long)
    for number, name in enumerate(Drawings.kinds, 1):
        kinds[kind_number(name) + 1] = number
    places = [Drawings.characters.index(character) + 1 for character in Stickers.characters]
    return kinds, torch.tensor([0, *places])
