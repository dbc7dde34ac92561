"""The published checkpoints, from the papers and the model pages of the hub.

The app's picker, the table of docs/weights.md and the memory figures come from this table.
"""

from dataclasses import dataclass

from paligemma.config import VARIANTS, PaliGemmaConfig

PURPOSES = {
    "mix": "tuned on a mixture of tasks: ask, caption, read, detect and segment at once",
    "pt": "pretrained only: the start of a fine-tune, weak without one",
    "ft-docci": "tuned on DOCCI: long, detailed captions",
}


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A checkpoint of the hub. `id` is its repository, `variant` a key of `VARIANTS`."""

    id: str
    variant: str
    kind: str

    @property
    def purpose(self) -> str:
        return PURPOSES[self.kind]

    @property
    def config(self) -> PaliGemmaConfig:
        return VARIANTS[self.variant]


def _published(
    family: str, sizes: str, kind: str, resolutions: tuple[int, ...]
) -> list[PublishedCheckpoint]:
    return [
        PublishedCheckpoint(
            f"google/{family}-{size}-{kind}-{side}", f"{family}-{size}-{side}", kind
        )
        for size in sizes.split()
        for side in resolutions
    ]


PUBLISHED: tuple[PublishedCheckpoint, ...] = (
    *_published("paligemma2", "3b 10b 28b", "mix", (224, 448)),
    *_published("paligemma2", "3b 10b", "ft-docci", (448,)),
    *_published("paligemma2", "3b 10b 28b", "pt", (224, 448, 896)),
    *_published("paligemma", "3b", "mix", (224, 448)),
    *_published("paligemma", "3b", "pt", (224, 448, 896)),
)
