"""Samples of one's own: JSON lines of {"image", "prefix", "suffix"}, as big_vision has them, or of
conversations, as LLaMA-Factory, ms-swift and LLaVA have them.

    {"messages": [{"role": "user", "content": "<image>caption en"},
                  {"role": "assistant", "content": "a cat"}], "images": ["cat.jpg"]}
    {"conversations": [{"from": "human", "value": "<image>caption en"},
                       {"from": "gpt", "value": "a cat"}], "image": "cat.jpg"}
"""

from collections.abc import Sequence
from typing import Any

from pydantic import field_validator, model_validator

from paligemma.detections import invalid_objects
from paligemma.formats.files import FileRecord, check_record, parse_record

USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")
CONVERSATIONS = ("messages", "conversations")
TEXTS = ("suffix", "text", "caption")  # names of the answer, where it is a column of a table


class SampleRecord(FileRecord):
    """One line: an image file's name, a prompt, and the answer to it.

    A prompt about several images has a list of them, in `image` or in `images`: `more_images` are
    those after the first. Invalid if the objects in the answer could not be read back.
    """

    image: str
    prefix: str
    suffix: str
    more_images: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _split_images(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        images = values.get("image", values.get("images"))
        if not isinstance(images, list):
            return values
        if not images:
            raise ValueError("it has no image")
        names = [_image_name(one) for one in images]
        return values | {"image": names[0], "more_images": tuple(names[1:])}

    @field_validator("suffix")
    @classmethod
    def _check_objects(cls, suffix: str) -> str:
        if reason := invalid_objects(suffix):
            raise ValueError(reason)
        return suffix


def parse_samples(line: bytes) -> list[SampleRecord]:
    """The samples of a line: one, or of a conversation one for each answer.

    PaliGemma answers one prompt, so each prompt stands alone. Raises ValueError with a reason, as
    `parse_record`.
    """
    if b'"messages"' in line or b'"conversations"' in line:
        values = parse_record(dict[str, Any], line)
        turns = values.get("messages", values.get("conversations"))
        if turns is not None and "prefix" not in values:
            images = values.get("images", values.get("image", []))
            names = [_image_name(one) for one in (images if isinstance(images, list) else [images])]
            return read_conversation(turns, names)
    return [parse_record(SampleRecord, line)]


def read_columns(
    values: dict[str, Any], image: str | Sequence[str], prefix: str | None
) -> SampleRecord:
    """The sample of a table's line: its answer in a column of `TEXTS`, its prompt in `prefix`.

    `prefix` is the prompt of a line that has none. Raises ValueError with a reason.
    """
    text = next((values[name] for name in TEXTS if values.get(name) is not None), None)
    if text is None:
        raise ValueError(f"it has none of {', '.join(TEXTS)}")
    given = {"image": image, "prefix": values.get("prefix") or prefix, "suffix": text}
    if given["prefix"] is None:
        raise ValueError("it has no prefix, and none is given for all")
    return check_record(SampleRecord, given)


def read_conversation(turns: Any, images: Sequence[str]) -> list[SampleRecord]:
    """A sample for each answer of a conversation about `images`, each about all of them.

    The first message may name images too. Raises ValueError with a reason.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("its messages are no list of objects")
    names, texts = [*images], []
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        expected = USER if len(texts) % 2 == 0 else ASSISTANT
        if role not in expected:
            raise ValueError(
                f"message {len(texts) + 1} is of {role!r:.40}, not of {expected[0]}: PaliGemma "
                "knows a user's prompt and the answer, in turn"
            )
        text, more = _read_content(turn.get("content", turn.get("value")))
        if texts and (more or "<image>" in text):
            raise ValueError(
                f"message {len(texts) + 1} brings an image: each prompt stands alone here, so that "
                "all images belong into the first"
            )
        texts.append(text.replace("<image>", "").strip())
        names += more
    if len(texts) % 2 or not texts:
        raise ValueError("its last message is no answer")
    return [
        check_record(SampleRecord, {"image": names, "prefix": prefix, "suffix": suffix})
        for prefix, suffix in zip(texts[::2], texts[1::2], strict=True)
    ]


def _read_content(content: Any) -> tuple[str, list[str]]:
    """The text of a message, with the `<image>` in it, and the images that it names."""
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"the content of a message is {content!r:.40}, not text")
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    images = [_image_name(part["image"]) for part in parts if part.get("image")]
    return "".join(texts), images


def _image_name(value: Any) -> str:
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise ValueError(f"the image is {value!r:.40}, not a file's name")
    return name
