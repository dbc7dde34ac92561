"""A short tour: python examples/quickstart.py. Writes its drawings to runs/quickstart."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from visualize import draw_attention, draw_boxes, draw_masks

out = Path("runs", "quickstart")
out.mkdir(parents=True, exist_ok=True)

pg = PaliGemma.load()  # the built-in model; PaliGemma.load("folder") takes any other
print(f"{pg.name}: {pg.description}\n")
image = open_image(Path(__file__).with_name("harbour.png"))

for prompt in ("caption en", "answer en how many things are there?", "ocr"):
    print(f"{prompt!r}: {pg.generate(image, prompt).text!r}")

reply = pg.generate(image, "detect anchor ; wheel")
for detection in reply.detections:
    corners = [round(edge) for edge in detection.xyxy(*image.size)]
    print(f"{detection.label} at {corners}, score {detection.score:.2f}")
draw_boxes(image, reply.detections).save(out / "boxes.png")

reply = pg.generate(image, "segment anchor ; wheel")
draw_masks(image, reply.detections, pg.masks(reply.detections)).save(out / "masks.png")

reply = pg.generate(image, "caption en")
maps = pg.explain_reply(image, "caption en", reply).maps["middle"]  # [tokens, grid, grid]
tokens = [token.text.strip() for token in reply.tokens]
draw_attention(image, maps[tokens.index("anchor")]).save(out / "attention.png")
print(f"\nWrote boxes.png, masks.png and attention.png to {out}.")
