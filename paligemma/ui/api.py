"""The tasks as typed functions for programs: `gradio_client`, plain HTTP, and MCP tools.

An image is sent as a file (`handle_file(path)` in gradio_client), as a data URL, or, where the app
is private, as an http(s) address of a public host. The answer is `Reply.to_json` without the
tokens, with the model's name and notes, and with each mask as COCO run lengths.
"""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any, Literal

from gradio.data_classes import FileData
from gradio.events import api
from PIL import Image

from paligemma.detections import format_box
from paligemma.fetch import is_address, read_address
from paligemma.generation import MAX_NEW_TOKENS, SamplingOptions
from paligemma.images import full_size
from paligemma.pipeline import PaliGemma
from paligemma.prompts import prompt_note
from paligemma.reply import Reply
from paligemma.tasks import QUESTION, REGION, TASKS, Task
from paligemma.ui.common import (
    answer_notes,
    asked_prompt,
    in_model_queue,
    open_for_page,
    open_upload,
    raw_prompt,
)
from paligemma.ui.page import Page
from visualize.export import AnnotatedImage, to_coco

DEFAULT_LIMIT = SamplingOptions().max_new_tokens
NO_IMAGE = "There is no picture: send one as a file, such as handle_file(path), or as a data URL."
NOT_FETCHED = (
    "This app is not private, so it fetches no address: send the picture as a file, such as "
    "handle_file(path), or as a data URL."
)


def add_endpoints(page: Page) -> None:
    """Add the functions to the page that is being built."""

    def answer(image: FileData, prompt: str, max_new_tokens: int, *notes: str) -> dict:
        picture = open_sent(image, may_fetch=page.models.any_model)
        options, model = SamplingOptions(max_new_tokens=max_new_tokens), page.model
        reply = page.start_run().generate(model, picture, prompt, options)
        return answer_json(picture, reply, model, answer_notes(model, reply, *notes))

    def answer_task(image: FileData, prompt: str, max_new_tokens: int) -> dict:
        prompt, note = asked_prompt(page.model, prompt)
        return answer(image, prompt, max_new_tokens, note)

    def region(
        image: FileData,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        language: str = "en",
        max_new_tokens: int = DEFAULT_LIMIT,
    ) -> dict:
        """Describe one box of an image.

        Parameters:
            image: the image
            x1: left edge, a fraction 0 to 1 of the width
            y1: upper edge, a fraction 0 to 1 of the height
            x2: right edge
            y2: lower edge
            language: code of the answer's language
            max_new_tokens: of the answer, 1 to 512
        """
        is_number = all(isinstance(edge, int | float) for edge in (x1, y1, x2, y2))
        if not (is_number and 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
            raise ValueError("A box has 0 ≤ x1 < x2 ≤ 1 and 0 ≤ y1 < y2 ≤ 1.")
        prompt = REGION.prompt(format_box((x1, y1, x2, y2)), language)
        return answer(image, prompt, max_new_tokens)

    def generate(image: FileData, prompt: str, max_new_tokens: int = DEFAULT_LIMIT) -> dict:
        """Answer any prompt about an image, given to the model as it is.

        Parameters:
            image: the image
            prompt: such as caption en, answer en what is it?, ocr, detect cat, segment cat
            max_new_tokens: of the answer, 1 to 512
        """
        prompt = raw_prompt(prompt)
        return answer(image, prompt, max_new_tokens, prompt_note(prompt))

    endpoints = [task_endpoint(task, answer_task) for task in TASKS.values()]
    endpoints += [region, task_endpoint(QUESTION, answer_task), generate]
    for endpoint in endpoints:
        api(**in_model_queue(endpoint), api_name=endpoint.__name__)


def open_sent(image: Any, may_fetch: bool) -> Image.Image:
    """The image that a program sends: an upload, a data URL or, where `may_fetch`, an address.

    An address is read through the guard of `fetch`. Raises ValueError for anything else.
    """
    file = image if isinstance(image, dict) else {"url": image}
    if file.get("path"):
        return open_upload(file).image
    address = str(file.get("url") or "")
    if not is_address(address):
        raise ValueError(NO_IMAGE)
    if not may_fetch and address[:5].lower() != "data:":
        raise ValueError(NOT_FETCHED)
    return open_for_page(read_address(address))


def task_endpoint(task: Task, answer: Callable[[FileData, str, int], dict]) -> Callable[..., dict]:
    """A function with the parameters of a task: image, text, language, style, and the limit."""
    parameters: dict[str, tuple[Any, str, Any]] = {}  # type, documentation, default
    if task.parameter:
        separated = "" if task.answers == "text" else ", separated by semicolons"
        text = f"{task.needs}{separated}, such as {task.hints[0]}"
        parameters["text"] = (str, text, Parameter.empty)
    if task.has_language:
        text = "code of the answer's language, one of the 35 of PaliGemma, such as en or de"
        parameters["language"] = (str, text, "en")
    if len(task.styles) > 1:
        text = f"one of {', '.join(task.styles)}"
        parameters["style"] = (Literal[task.styles], text, task.styles[0])
    text = f"of the answer, 1 to {MAX_NEW_TOKENS}"
    parameters["max_new_tokens"] = (int, text, DEFAULT_LIMIT)

    def endpoint(image: FileData, *values: Any) -> dict:
        given = {name: default for name, (_, _, default) in parameters.items()}
        given |= zip(parameters, values, strict=False)
        max_new_tokens = given.pop("max_new_tokens")
        return answer(image, task.prompt(**given), max_new_tokens)

    names = {name: name for name in parameters} | {"text": task.parameter or "text"}
    given = [
        Parameter(names[name], Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
        for name, (kind, _, default) in parameters.items()
    ]
    image = Parameter("image", Parameter.POSITIONAL_OR_KEYWORD, annotation=FileData)
    lines = [f"{names[name]}: {text}" for name, (_, text, _) in parameters.items()]
    endpoint.__signature__ = Signature([image, *given], return_annotation=dict)
    endpoint.__annotations__ = {each.name: each.annotation for each in (image, *given)}
    endpoint.__annotations__["return"] = dict
    endpoint.__name__ = task.key
    endpoint.__doc__ = "\n    ".join(
        [f"{task.description}\n\nParameters:", "image: the image", *lines]
    )
    return endpoint


def answer_json(
    image: Image.Image, reply: Reply, model: PaliGemma, notes: Sequence[str] = ()
) -> dict:
    """`Reply.to_json` without tokens, the model's name, notes, and each mask as COCO run lengths.

    notes: sentences such as which names the model does not know.
    """
    masks = model.masks(reply.detections)
    coco = to_coco([AnnotatedImage("", *full_size(image), reply.detections, masks)])
    answer: dict[str, Any] = reply.to_json(tokens=False) | {
        "model": model.name,
        "notes": list(notes),
    }
    for detection, annotation in zip(answer["detections"], coco["annotations"], strict=True):
        if annotation["segmentation"]:
            detection["mask"] = annotation["segmentation"]
    return answer
