"""An answer as JSON."""

import json

import pytest
import tiny
from PIL import Image

from paligemma.detections import Detection
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply, Timings, Token

CODES = tuple(range(16))
REPLY = Reply(
    text="<loc0000>…",
    detections=(
        Detection("cat", (0.25, 0.5, 0.75, 1.0), CODES, 0.875),
        Detection("", (0.0, 0.0, 0.0, 1.0)),
    ),
    tokens=(Token(7, "<loc0000>", -0.5), Token(8, "…", -0.25)),
    timings=Timings(1.0, 0.5, 0.25, 4),
    finish_reason="stop",
    prompt="segment cat",
    image_size=(640, 480),
)


def test_to_json():
    whole = json.loads(json.dumps(REPLY.to_json(), allow_nan=False))
    assert whole == {
        "text": "<loc0000>…",
        "prompt": "segment cat",
        "width": 640,
        "height": 480,
        "detections": [
            {
                "label": "cat",
                "score": 0.875,
                "box": [160, 240, 480, 480],
                "box_normalized": [0.25, 0.5, 0.75, 1],
                "mask_codes": [*CODES],
            },
            {
                "label": "",
                "score": None,
                "box": [0, 0, 0, 480],
                "box_normalized": [0, 0, 0, 1],
                "mask_codes": None,
            },
        ],
        "num_tokens": 2,
        "tokens": [
            {"id": 7, "text": "<loc0000>", "logprob": -0.5},
            {"id": 8, "text": "…", "logprob": -0.25},
        ],
        "timings": {
            "image_s": 1.0,
            "prefill_s": 0.5,
            "decode_s": 0.25,
            "steps": 4,
            "total_s": 1.75,
        },
        "finish_reason": "stop",
    }
    without = REPLY.to_json(tokens=False)
    assert "tokens" not in without and without == {k: v for k, v in whole.items() if k != "tokens"}


def test_without_the_image_boxes_have_no_pixels():
    reply = Reply(REPLY.text, REPLY.detections, (), REPLY.timings, None)
    values = reply.to_json()
    assert values["prompt"] is values["width"] is values["height"] is None
    assert [found["box"] for found in values["detections"]] == [None, None]
    assert values["detections"][0]["box_normalized"] == [0.25, 0.5, 0.75, 1.0]


def test_the_image_size_is_that_of_the_upright_image(tmp_path):
    pg = PaliGemma.load(tiny.write(tmp_path / "tiny"), dtype="float32")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    path = tmp_path / "image.jpg"
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    options = SamplingOptions(max_new_tokens=2)
    *_, reply = pg.stream(path, "ocr", options)
    assert reply.image_size == (30, 40) and reply.prompt == "ocr"
    replies = pg.generate_batch([path, Image.new("L", (9, 8))], ["ocr", "caption en"], options)
    assert [one.image_size for one in replies] == [(30, 40), (9, 8)]
    assert [one.prompt for one in replies] == ["ocr", "caption en"]
    assert pytest.approx(reply.to_json()["timings"]["total_s"]) == reply.timings.total_s
