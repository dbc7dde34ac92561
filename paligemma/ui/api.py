"""Each task as one typed function, for programs: `gradio_client`, plain HTTP, and MCP tools.

A picture is sent as a file (`handle_file(path)` in gradio_client); the answer is JSON.
"""

from typing import Any, Literal

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from paligemma.detections import format_box, snap
from paligemma.generation import SamplingOptions
from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.tasks import QUESTION, REGION, TASKS
from paligemma.ui.common import Page, on_gpu, picture_path, sentences
from visualize.export import AnnotatedImage, to_coco

MOST_TOKENS = 512


def add_endpoints(page: Page) -> None:
    """Add the functions to the page that is being built."""

    def answer(image: FileData, prompt: str, max_new_tokens: int = 128) -> dict:
        with sentences():
            picture = open_image(_path(image))
            if not isinstance(max_new_tokens, int | float) or not max_new_tokens <= MOST_TOKENS:
                raise ValueError(f"max_new_tokens is 1 to {MOST_TOKENS}, not {max_new_tokens!r}.")
            most = max(int(max_new_tokens), 1)
            pg = page.seat.current
            reply = pg.generate(picture, prompt, SamplingOptions(max_new_tokens=most))
            return as_json(picture, reply, pg)

    def caption(
        image: FileData, language: str = "en", style: Literal["caption", "cap", "describe"] = "cap"
    ) -> dict:
        """Describe a picture in a sentence.

        Parameters:
            image: the picture
            language: code of the answer's language, one of the 35 of PaliGemma, such as en or de
            style: caption is the usual one, cap is short, describe is detailed
        """
        return task(image, "caption", "", language, style)

    def ask(image: FileData, question: str, language: str = "en") -> dict:
        """Answer a question about a picture in a word or a few.

        Parameters:
            image: the picture
            question: for example, how many things are there?
            language: code of the answer's language
        """
        return task(image, "ask", question, language)

    def read(image: FileData) -> dict:
        """Read the words that are written in a picture.

        Parameters:
            image: the picture
        """
        return task(image, "read")

    def detect(image: FileData, names: str) -> dict:
        """Find things in a picture: labels, boxes and scores.

        Parameters:
            image: the picture
            names: what to find, separated by semicolons, such as cat ; umbrella
        """
        return task(image, "detect", names)

    def segment(image: FileData, names: str) -> dict:
        """Find things in a picture and outline them: labels, boxes, scores, masks as COCO RLE.

        Parameters:
            image: the picture
            names: what to outline, separated by semicolons, such as cat ; umbrella
        """
        return task(image, "segment", names)

    def region(
        image: FileData, x1: float, y1: float, x2: float, y2: float, language: str = "en"
    ) -> dict:
        """Say what is in one box of a picture.

        Parameters:
            image: the picture
            x1: left edge, a fraction 0 to 1 of the width
            y1: upper edge, a fraction 0 to 1 of the height
            x2: right edge
            y2: lower edge
            language: code of the answer's language
        """
        with sentences():
            numbers = all(isinstance(edge, int | float) for edge in (x1, y1, x2, y2))
            if not (numbers and 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
                raise ValueError("A box has 0 ≤ x1 < x2 ≤ 1 and 0 ≤ y1 < y2 ≤ 1.")
            box = snap((x1, y1, x2, y2), page.seat.current.resolution)
            prompt = REGION.prompt(format_box(box), language)
        return answer(image, prompt)

    def question(image: FileData, reply: str, language: str = "en") -> dict:
        """Ask the question about a picture that has a given answer.

        Parameters:
            image: the picture
            reply: the answer, such as two
            language: code of the question's language
        """
        with sentences():
            prompt = QUESTION.prompt(reply, language)
        return answer(image, prompt)

    def generate(image: FileData, prompt: str, max_new_tokens: int = 128) -> dict:
        """Answer any prompt about a picture, given just as the model gets it.

        Parameters:
            image: the picture
            prompt: such as caption en, answer en what is it?, ocr, detect cat, segment cat
            max_new_tokens: the longest answer, 1 to 512
        """
        return answer(image, prompt, max_new_tokens)

    def task(image: FileData, key: str, *parts: str) -> dict:
        with sentences():
            prompt = TASKS[key].prompt(*parts)
        return answer(image, prompt)

    for endpoint in caption, ask, read, detect, segment, region, question, generate:
        gr.api(on_gpu(endpoint), api_name=endpoint.__name__, concurrency_id="model")


def _path(image: Any) -> str:
    """The uploaded file."""
    if not isinstance(image, dict) or not image.get("path"):
        raise ValueError("There is no picture: send one as a file, such as handle_file(path).")
    return picture_path(image)


def as_json(image: Image.Image, reply: Reply, pg: PaliGemma) -> dict:
    """`Reply.to_json` without tokens, the model's name, and each mask as COCO run lengths."""
    found = reply.detections
    coco = to_coco([AnnotatedImage("", *image.size, found, pg.masks(found))])
    answer = reply.to_json(tokens=False) | {"model": pg.name}
    for detection, annotation in zip(answer["detections"], coco["annotations"], strict=True):
        if annotation["segmentation"]:
            detection["mask"] = annotation["segmentation"]
    return answer
