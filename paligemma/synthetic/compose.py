"""A scene of the drawn world by its seed: an image, and everything that there is to say about it.

    composer = Composer(load_atlas(stickers_cache() / "atlas"))
    image, scene = composer(seed)              # [256, 256, 3] uint8, ComposedScene

A scene is up to six things and up to two blocks of words on a ground. Everything about it is
a function of the seed, the options and the atlas.
"""

from functools import lru_cache

import cv2
import numpy as np

from paligemma.synthetic import fonts
from paligemma.synthetic.atlas import Atlas
from paligemma.synthetic.canvas import Canvas
from paligemma.synthetic.composed_scene import ComposedScene, SceneObject
from paligemma.synthetic.effects import apply_effects
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.place_sprites import LEAST_PIXELS, place_sprite, plan_sprites
from paligemma.synthetic.scene_options import SceneOptions
from paligemma.synthetic.write_lines import write_lines


class Composer:
    """Draws the scene of any seed from an atlas. One a process: it keeps what it has looked up."""

    def __init__(self, atlas: Atlas, options: SceneOptions | None = None) -> None:
        self.atlas, self.options = atlas, options or SceneOptions()
        artists = self.options.artists or atlas.training_artists
        wanted = self.options.kinds
        styles = {sprite.artist: sprite.style for sprite in atlas.sprites}
        # kind: [numbers by artist] in colours, and of glyphs
        self.sprites: dict[str, tuple[list[list[int]], list[list[int]]]] = {}
        for name, by_artist in atlas.by_artist(artists).items():
            if wanted is None or name in wanted:
                groups: dict[str, list[list[int]]] = {"color": [], "glyph": []}
                for artist, numbers in by_artist.items():
                    groups[styles[artist]].append(numbers)
                self.sprites[name] = groups["color"], groups["glyph"]
        if strangers := [name for name in artists if name not in atlas.artists]:
            raise ValueError(f"the atlas has nothing by {', '.join(strangers)}")
        if not self.sprites:
            raise ValueError("the atlas has no drawing of the kinds that are asked for")
        self.names = tuple(self.sprites)
        self.families = fonts.installed(self.options.held_out_fonts)
        self.weights = dict(self.options.grounds)

    def __call__(self, seed: int) -> tuple[np.ndarray, ComposedScene]:
        options = self.options
        canvas = Canvas(seed, options.size, self.weights, options.stretch)
        counts = np.cumsum(options.counts)
        count = int(np.searchsorted(counts, canvas.rng.random() * counts[-1], side="right"))
        blocks = int(np.searchsorted((0.5, 0.85), canvas.rng.random(), side="right"))
        if count == 0 and canvas.chance(0.7):
            blocks = max(blocks, 1)
        if self.families and canvas.chance(options.texts):
            for _ in range(blocks):
                write_lines(canvas, self.families, large=count < 3)
        for plan in plan_sprites(canvas, options, self._choose(canvas, count)):
            place_sprite(canvas, options, self.atlas, plan)
        image = apply_effects(canvas, options.effects)
        return image, ComposedScene(
            seed=seed,
            background=canvas.ground.color,
            ground=canvas.ground.style,
            objects=self._visible_objects(canvas),
            texts=tuple(sorted(canvas.texts, key=lambda text: text.box[1])),
            effects=tuple(canvas.effects),
            owners=canvas.owners,
        )

    def _choose(self, canvas: Canvas, count: int) -> list[int]:
        """The numbers of `count` sprites; the same kind comes again now and then, or another of
        its category, so that there is more to count."""
        chosen: list[int] = []
        names: list[str] = []
        for _ in range(count):
            sort = canvas.rng.random()
            if names and sort < 0.22:
                name = canvas.pick(names)
                if canvas.chance(0.6):
                    chosen.append(chosen[names.index(name)])
                    names.append(name)
                    continue
            else:
                name = canvas.pick(self.names)
                if names and sort < 0.36:
                    categories = _categories()
                    category = categories.get(names[0])
                    for _ in range(30):
                        if category and categories.get(name) == category:
                            break
                        name = canvas.pick(self.names)
            color, glyph = self.sprites[name]
            artists = (
                glyph if glyph and (not color or canvas.chance(self.options.glyphs)) else color
            )
            chosen.append(canvas.pick(canvas.pick(artists)))
            names.append(name)
        return chosen

    def _visible_objects(self, canvas: Canvas) -> tuple[SceneObject, ...]:
        """The placed things, as far as they are still visible; `owners` is renumbered if some
        are not."""
        objects, visible = [], []
        for number, (placed, count) in enumerate(
            zip(canvas.placed, canvas.count_pixels()[1:].tolist(), strict=True), 1
        ):
            if count < LEAST_PIXELS:
                continue
            x, y, width, height = cv2.boundingRect((canvas.owners == number).view(np.uint8))
            seen = np.array([x, y, x + width, y + height], float)
            # where nothing hides an edge, it is known more finely than by whole pixels
            edges = np.where(np.abs(placed.edges - seen) <= 1.5, placed.edges, seen)
            box = np.clip(edges / canvas.size, 0, 1)
            visible.append(number)
            objects.append(
                SceneObject(
                    name=self.atlas.kinds[placed.number],
                    number=placed.number,
                    artist=placed.artist,
                    color=placed.color,
                    box=tuple(box.tolist()),
                    visible=min(1.0, count / max(placed.whole, 1)),
                    area=count / canvas.size**2,
                    angle=placed.angle,
                    mirrored=placed.mirrored,
                )
            )
        if len(visible) < len(canvas.placed):
            numbers = np.zeros(len(canvas.placed) + 1, np.uint8)
            numbers[visible] = np.arange(1, len(visible) + 1)
            canvas.owners = numbers[canvas.owners]
        return tuple(objects)


@lru_cache(maxsize=1)
def _categories() -> dict[str, str]:
    return {kind.name: kind.category for kind in all_kinds()}
