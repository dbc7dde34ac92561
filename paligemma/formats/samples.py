"""Samples of one's own: JSON lines of {"image", "prefix", "suffix"}, as big_vision has them."""

from pydantic import field_validator

from paligemma.detections import invalid_objects
from paligemma.formats.files import FileRecord


class SampleRecord(FileRecord):
    """One line: an image file's name, a prompt, and the answer to it.

    Invalid if the objects in the answer could not be read back.
    """

    image: str
    prefix: str
    suffix: str

    @field_validator("suffix")
    @classmethod
    def _check_objects(cls, suffix: str) -> str:
        if reason := invalid_objects(suffix):
            raise ValueError(reason)
        return suffix
