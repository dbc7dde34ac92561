"""The tasks, one row each: how the prompt is built and what the answer holds.

Prompt forms: PaliGemma, arXiv 2407.07726, section 3.2, and big_vision's `paligemma` configs. The
same rows make the app's tabs and the endpoints of its API.

    TASKS["detect"].prompt("cat, dog")  # "detect cat ; dog"
"""

import re
from dataclasses import dataclass
from reprlib import repr as short_repr
from typing import Literal


@dataclass(frozen=True)
class Task:
    """One task.

    description: what it does, in a sentence.
    template: the prompt, with {style}, {text} and {language} to fill in.
    needs: what the person types, as a noun phrase, or None if the image is enough.
    parameter: the name of that text in the API. answers: what the answer holds.
    styles: variants of the prompt, the default first. hints: texts to try.
    """

    key: str
    label: str
    description: str
    template: str
    needs: str | None
    parameter: str | None
    answers: Literal["text", "boxes", "masks"]
    styles: tuple[str, ...] = ("",)
    hints: tuple[str, ...] = ()

    @property
    def has_language(self) -> bool:
        """Whether the prompt names the language of the answer."""
        return "{language}" in self.template

    def prompt(self, text: str = "", language: str = "en", style: str | None = None) -> str:
        """The prompt for `text` (ignored if nothing is needed) and a language code such as "en".

        Object names may be separated by commas or semicolons; `style` None is the default.
        Raises ValueError if a needed text is empty, the language is not a code, or the task has no
        such style.
        """
        if not (isinstance(text, str) and isinstance(language, str)):
            raise ValueError(
                f"{self.label} takes text, not {short_repr(text)} in {short_repr(language)}."
            )
        style = self.styles[0] if style is None else style
        if style not in self.styles:
            raise ValueError(
                f"{self.label} has the styles {', '.join(self.styles)}; got {short_repr(style)}."
            )
        if not re.fullmatch("[A-Za-z]+(-[A-Za-z]+)*", language):
            raise ValueError(
                f"A language is a code such as 'en' or 'de'; got {short_repr(language)}."
            )
        words = re.sub("^(?:<image>)+ ?", "", " ".join(text.split()))  # as for transformers
        if self.answers != "text":
            words = re.sub("^(?:detect|segment) ", "", words, flags=re.IGNORECASE)  # a whole prompt
            names = (name.strip() for name in re.split("[;,]", words))
            words = " ; ".join(name for name in names if name)
        if self.needs and not words:
            raise ValueError(f"{self.label} needs {self.needs}; got {short_repr(text)}.")
        return self.template.format(text=words, language=language, style=style)


TASKS: dict[str, Task] = {
    task.key: task
    for task in (
        Task(
            key="caption",
            label="Caption",
            description="Describe an image in a sentence.",
            template="{style} {language}",
            needs=None,
            parameter=None,
            answers="text",
            styles=("caption", "cap", "describe"),
        ),
        Task(
            key="ask",
            label="Ask",
            description="Answer a question about an image in a word or a few.",
            template="answer {language} {text}",
            needs="a question about the picture",
            parameter="question",
            answers="text",
            hints=(
                "how many things are there?",
                "what color is the background?",
                "is there a cat?",
            ),
        ),
        Task(
            key="read",
            label="Read",
            description="Read the text in an image.",
            template="ocr",
            needs=None,
            parameter=None,
            answers="text",
        ),
        Task(
            key="detect",
            label="Detect",
            description="Find objects in an image: labels, boxes and scores.",
            template="detect {text}",
            needs="objects to find",
            parameter="objects",
            answers="boxes",
            hints=("cat ; umbrella",),
        ),
        Task(
            key="segment",
            label="Segment",
            description="Find objects in an image and outline them: labels, boxes, scores, masks.",
            template="segment {text}",
            needs="objects to outline",
            parameter="objects",
            answers="masks",
            hints=("cat ; umbrella",),
        ),
    )
}

# A caption of one box, where `text` is its four <loc> tokens; the question whose answer is `text`.
REGION = Task(
    key="region",
    label="Region",
    description="Describe one box of an image.",
    template="caption {language} {text}",
    needs="a box in the picture",
    parameter=None,
    answers="text",
)
QUESTION = Task(
    key="question",
    label="Question",
    description="Find the question about an image that has a given answer.",
    template="question {language} {text}",
    needs="the answer",
    parameter="answer",
    answers="text",
    hints=("two",),
)


def task_of(prompt: str) -> str:
    """The task that a prompt is of, by its first word: a key of `TASKS`, "region", or ""."""
    word = prompt.split(" ", 1)[0]
    if word in TASKS["caption"].styles:
        return "region" if "<loc" in prompt else "caption"
    return {"answer": "ask", "ocr": "read", "detect": "detect", "segment": "segment"}.get(word, "")


# The 35 languages that PaliGemma was pretrained to answer in, those of COCO-35L (arXiv 2407.07726,
# section 3.2.5; Thapliyal et al., arXiv 2205.12522).
LANGUAGES: dict[str, str] = {
    code: name
    for code, _, name in (
        entry.partition(" ")
        for entry in (
            "ar Arabic, bn Bengali, cs Czech, da Danish, de German, el Greek, en English, "
            "es Spanish, fa Persian, fi Finnish, fil Filipino, fr French, hi Hindi, hr Croatian, "
            "hu Hungarian, id Indonesian, it Italian, iw Hebrew, ja Japanese, ko Korean, mi Maori, "
            "nl Dutch, no Norwegian, pl Polish, pt Portuguese, ro Romanian, ru Russian, "
            "sv Swedish, sw Swahili, te Telugu, th Thai, tr Turkish, uk Ukrainian, vi Vietnamese, "
            "zh Chinese"
        ).split(", ")
    )
}
