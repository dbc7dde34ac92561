"""What scenes of the drawn world are like."""

from dataclasses import dataclass, replace

from paligemma.synthetic import grounds

COUNTS = (0.04, 0.2, 0.25, 0.22, 0.15, 0.09, 0.05)  # of zero to six things


@dataclass(frozen=True)
class SceneOptions:
    """What scenes are like. `artists` None means those for training. `counts` are the chances of
    zero, one, two … things. `restyle`, `texts` and `effects` are factors of the usual chances.
    `grounds` are weights of `grounds.STYLES`. `kinds` None means all that the atlas has. `size`
    is in pixels: no fewer than a model's image has, or it is shown nothing but larger pixels."""

    size: int = 256
    artists: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    counts: tuple[float, ...] = COUNTS
    sizes: tuple[float, float] = (0.12, 0.6)
    restyle: float = 1.0
    glyphs: float = 0.22
    texts: float = 1.0
    held_out_fonts: bool = False
    effects: float = 1.0
    overlaps: float = 0.2
    stretch: float = 0.35
    any_angle: float = 0.12
    grounds: tuple[tuple[str, int], ...] = tuple(grounds.STYLES.items())

    def as_drawn(
        self, artists: tuple[str, ...] | None, held_out_fonts: bool = False
    ) -> "SceneOptions":
        """These for evaluation: the drawings of `artists` as they are, in full size."""
        size = SceneOptions.size
        return replace(self, artists=artists, held_out_fonts=held_out_fonts, restyle=0, size=size)
