"""The tasks a person can choose, one row each: how its prompt is built and what comes back.

Prompt forms: PaliGemma, arXiv 2407.07726, section 3.2, and big_vision's `paligemma` configs. The
same rows feed the app's tabs and the command line.

    TASKS["detect"].prompt("cat, dog")  # "detect cat ; dog"
"""

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Task:
    """One task.

    template: the prompt, with {text} and {language} to fill in.
    needs: what the person types, as a noun phrase, or None when the picture is enough.
    answers: what the reply holds.
    """

    key: str
    label: str
    template: str
    needs: str | None
    answers: Literal["text", "boxes", "masks"]

    def prompt(self, text: str = "", language: str = "en") -> str:
        """The prompt for `text` (unused where nothing is needed) and a language code such as "en".

        Object names may be separated by commas or semicolons. Raises ValueError when a needed
        text is empty or the language is not a code.
        """
        if not re.fullmatch("[A-Za-z]+(-[A-Za-z]+)*", language):
            raise ValueError(f"A language is a code such as 'en' or 'de'; got {language!r}.")
        words = " ".join(text.split())
        if self.answers != "text":
            names = (name.strip() for name in re.split("[;,]", words))
            words = " ; ".join(name for name in names if name)
        if self.needs and not words:
            raise ValueError(f"{self.label} needs {self.needs}; got {text!r}.")
        return self.template.format(text=words, language=language)


TASKS: dict[str, Task] = {
    task.key: task
    for task in (
        Task("caption", "Caption", "caption {language}", None, "text"),
        Task("ask", "Ask", "answer {language} {text}", "a question about the picture", "text"),
        Task("read", "Read", "ocr", None, "text"),
        Task("detect", "Detect", "detect {text}", "names of things to find", "boxes"),
        Task("segment", "Segment", "segment {text}", "names of things to outline", "masks"),
    )
}
