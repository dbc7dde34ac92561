"""Draw the example pictures: python examples/draw.py (from the project's folder).

Scenes of pictograms are composed by hand, those of stickers from the sheet beside the built-in
model, each with a seed that places them well. Training never draws them.
"""

import json
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma.checkpoints.resolve import BUILT_IN_FOLDER, STICKER_SHEET
from paligemma.detections import Detection, format
from paligemma.pipeline import PaliGemma
from paligemma.synthetic.atlas import Atlas
from paligemma.synthetic.compose import Composer
from paligemma.synthetic.drawings import StickerScene
from paligemma.synthetic.language import caption
from paligemma.synthetic.scene_options import SceneOptions
from paligemma.synthetic.scenes import Item, Look, Scene, Text, render
from paligemma.synthetic.sticker_sheet import load_sheet
from paligemma.tasks import TASKS

HERE = Path(__file__).parent
WHITE, INK = (250, 250, 250), (20, 20, 30)
SIZE = 640  # pixels a side
STICKER_SIZE = 480
LINES = Look(has_rim=False)

SCENES = {
    "planes": Scene(
        "black", "plain",
        (Item("plane", "green", 0.26, 0.28, 0.40, -18),
         Item("plane", "green", 0.70, 0.36, 0.36, 12),
         Item("heart", "pink", 0.48, 0.76, 0.36, 8)),
        (), 1,
    ),
    "zoo": Scene(
        "beige", "shaded",
        (Item("cat", "orange", 0.25, 0.30, 0.38, -8),
         Item("monkey", "brown", 0.73, 0.31, 0.40, 10),
         Item("cat", "blue", 0.70, 0.77, 0.34, 14)),
        (Text("ZOO", 0.05, 0.76, 0.18, INK),), 2,
    ),
    "weather": Scene(
        "navy", "plain",
        (Item("cloud", "blue", 0.28, 0.24, 0.42, 0),
         Item("umbrella", "red", 0.30, 0.70, 0.42, 14),
         Item("sun", "yellow", 0.74, 0.28, 0.38, 10),
         Item("snowflake", "pink", 0.74, 0.74, 0.36, 5)),
        (), 3,
    ),
    "harbour": Scene(
        "teal", "noisy",
        (Item("anchor", "red", 0.27, 0.33, 0.40, -12),
         Item("wheel", "brown", 0.72, 0.70, 0.40, 9)),
        (Text("SHIP", 0.50, 0.24, 0.17, WHITE),), 4,
    ),
    "tea": Scene(
        "white", "plain",
        (Item("cup", "green", 0.30, 0.66, 0.42, 4),
         Item("clover", "green", 0.74, 0.70, 0.36, -14)),
        (Text("TEA", 0.10, 0.22, 0.22, (120, 20, 20)), Text("42", 0.62, 0.30, 0.20, INK)), 5,
    ),
    "faces": Scene(
        "gray", "plain",
        (Item("smiley", "yellow", 0.27, 0.29, 0.40, 0),
         Item("smiley", "purple", 0.72, 0.31, 0.36, 15),
         Item("mouse", "pink", 0.28, 0.74, 0.38, -6),
         Item("skull", "red", 0.73, 0.75, 0.36, 6)),
        (), 6,
    ),
    "castle": Scene(
        "black", "shaded",
        (Item("castle", "orange", 0.28, 0.62, 0.44, 0),
         Item("crown", "yellow", 0.72, 0.68, 0.40, -10),
         Item("moon", "blue", 0.78, 0.25, 0.32, 8)),
        (Text("KING", 0.08, 0.20, 0.18, WHITE),), 7,
    ),
    "music": Scene(
        "white", "noisy",
        (Item("note", "purple", 0.24, 0.32, 0.36, -8),
         Item("note", "purple", 0.52, 0.70, 0.36, 12),
         Item("star", "red", 0.76, 0.28, 0.36, 10),
         Item("note", "purple", 0.84, 0.74, 0.26, 4)),
        (), 8,
    ),
    "signs": Scene(
        "white", "plain",
        (Item("anchor", "blue", 0.28, 0.30, 0.40, 165, LINES),
         Item("heart", "red", 0.72, 0.28, 0.32, -75, LINES),
         Item("skull", "purple", 0.72, 0.74, 0.40, 100, LINES)),
        (), 9,
    ),
}  # fmt: skip

STICKERS = {  # kinds of the sheet, one of each, and a seed
    "farm": (("chicken", "pig", "sheep"), 48),
    "picnic": (("apple", "ice cream", "watermelon"), 85),
    "road": (("bus", "taxi", "traffic light"), 49),
    "band": (("guitar", "piano", "trumpet"), 157),
    "party": (("balloon", "cake", "present"), 111),
}

PROMPTS = [
    ("harbour", "detect", "anchor ; wheel"),
    ("road", "detect", "taxi ; bus"),
    ("farm", "segment", "pig"),
    ("party", "caption", ""),
    ("band", "ask", "is there a guitar?"),
    ("picnic", "detect", "apple ; watermelon"),
    ("weather", "segment", "cloud ; sun"),
    ("faces", "caption", ""),
    ("castle", "read", ""),
    ("music", "ask", "how many notes are there?"),
    ("faces", "detect", "mouse ; skull"),
    ("zoo", "segment", "monkey"),
    ("zoo", "caption", ""),
    ("planes", "detect", "plane"),
    ("weather", "ask", "is the sun above the umbrella?"),
    ("zoo", "ask", "what color is the monkey?"),
    ("harbour", "read", ""),
    ("signs", "detect", "anchor ; heart"),
    ("weather", "caption", ""),
]


def compose(sheet: Atlas, kinds: tuple[str, ...], seed: int) -> StickerScene:
    """A scene of one sticker of each kind, as they are, side by side on a named ground."""
    options = SceneOptions(
        size=STICKER_SIZE, kinds=kinds, counts=(*[0] * len(kinds), 1), sizes=(0.3, 0.45), restyle=0,
        texts=0, effects=0, overlaps=0, stretch=0, any_angle=0,
    )  # fmt: skip
    pixels, scene = Composer(sheet, options)(seed)
    return StickerScene(scene, pixels)


def all_scenes() -> dict[str, Scene | StickerScene]:
    """By the name of the image's file."""
    sheet = load_sheet(BUILT_IN_FOLDER / STICKER_SHEET)
    return SCENES | {name: compose(sheet, *one) for name, one in STICKERS.items()}


def draw(scene: Scene | StickerScene) -> Image.Image:
    if isinstance(scene, StickerScene):
        return Image.fromarray(scene.image)
    return render(scene, SIZE)


def training_samples(name: str, scene: Scene | StickerScene) -> list[dict]:
    """Samples about the image for a training run: its caption, and the objects of each kind."""
    samples = [{"prefix": TASKS["caption"].prompt(), "suffix": caption(scene)}]
    for kind in sorted({item.kind for item in scene.items}):
        found = [Detection(kind, item.box) for item in scene.items if item.kind == kind]
        samples.append({"prefix": TASKS["detect"].prompt(kind), "suffix": format(found)})
    return [{"image": f"{name}.png"} | sample for sample in samples]


def answered(pg: PaliGemma, name: str, task: str, text: str) -> dict:
    """A row of prompts.json: the prompt, and the built-in model's answer with log-probabilities."""
    reply = pg.generate(HERE / f"{name}.png", TASKS[task].prompt(text))
    tokens = [[token.text, round(token.logprob, 4)] for token in reply.tokens]
    return {"image": f"{name}.png", "task": task, "text": text, "tokens": tokens}


if __name__ == "__main__":
    scenes = all_scenes()
    for name, scene in scenes.items():
        draw(scene).save(HERE / f"{name}.png", optimize=True)
    pg = PaliGemma.load()
    rows = ",\n ".join(json.dumps(answered(pg, *prompt)) for prompt in PROMPTS)
    samples = [one for name, scene in scenes.items() for one in training_samples(name, scene)]
    lines = "".join(json.dumps(one) + "\n" for one in samples)
    (HERE / "train.jsonl").write_text(lines, encoding="utf-8")
    (HERE / "prompts.json").write_text(f"[{rows}]\n", encoding="utf-8")
