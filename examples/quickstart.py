"""The short tour: python examples/quickstart.py (from the project's folder)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from visualize import draw_attention, draw_boxes, draw_masks

pg = PaliGemma.load()  # the built-in model; PaliGemma.load("folder") takes any other
print(f"Answering: {pg.name}. {pg.description}\n")
picture = open_image(Path(__file__).parent / "harbour.png")

for prompt in ("caption en", "answer en how many things are there?", "ocr"):
    print(f"{prompt!r}: {pg.generate(picture, prompt).text!r}")

reply = pg.generate(picture, "detect anchor ; wheel")
for found in reply.detections:
    corners = [round(edge) for edge in found.xyxy(*picture.size)]
    print(f"{found.label} at {corners}, score {found.score:.2f}")
draw_boxes(picture, reply.detections).save("boxes.png")

reply = pg.generate(picture, "segment anchor ; wheel")
draw_masks(picture, reply.detections, pg.masks(reply.detections)).save("masks.png")

reply = pg.generate(picture, "caption en")
looks = pg.explain_reply(picture, "caption en", reply).maps["middle"]
words = [token.text.strip() for token in reply.tokens]
draw_attention(picture, looks[words.index("anchor")]).save("attention.png")
print("\nwrote boxes.png, masks.png and attention.png")
