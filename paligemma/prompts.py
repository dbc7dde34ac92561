"""The forms of raw prompts, and what is likely meant by text that has none of them.

    likely_prompt("Find the cat")  # "detect cat"

Forms: PaliGemma, arXiv 2407.07726, section 3.2, as in `tasks.TASKS`. A fine-tune may have others:
nothing here refuses a prompt, and callers say what they do with a suggestion.
"""

import re
from collections.abc import Collection

from paligemma.tasks import LANGUAGES

FORMS = "caption en, answer en (a question), ocr, detect (names), segment (names)"
WITH_LANGUAGE = ("caption", "cap", "describe", "answer", "question")
BUILT_IN_FORMS = ("caption", "cap", "describe", "answer", "ocr", "detect", "segment")
BUILT_IN = "caption en, cap en, describe en, answer en, ocr, detect and segment"
WITH_NAMES = ("detect", "segment")
QUESTION_WORDS = (
    "what who whose which where when why how is are was were do does did can could has have there"
).split()
SEARCH = re.compile(
    r"(?:find|locate|show|where is|where are)(?: me)?(?: (?:the|a|an|all))?(?:\s+|$)", re.I
)


def strip_image_tokens(prompt: str) -> str:
    """A prompt without the `<image>` that transformers' processor asks for before it."""
    if not isinstance(prompt, str):
        return prompt  # the processor refuses it
    return re.sub(r"^(?:<image>)+(?:<bos>)?\s*", "", prompt)


def likely_prompt(text: str) -> str:
    """The prompt that is likely meant; the text itself if it has one of the forms, or no words."""
    words = text.split()
    if not words:
        return text
    first, rest = words[0].lower().rstrip(":"), " ".join(words[1:])
    if first == "ocr":
        return "ocr"
    if first in WITH_NAMES:
        return f"{first} {rest}" if rest else text
    if first in WITH_LANGUAGE:
        if len(words) > 1 and words[1].lower() in LANGUAGES:
            return " ".join([first, words[1].lower(), *words[2:]])
        if first in ("answer", "question") or rest.startswith("<loc"):
            return f"{first} en {rest}".rstrip()
        return f"{first} en"
    if text.lstrip().startswith("<"):
        return text
    if first == "read":
        return "ocr"
    if found := SEARCH.match(text.strip()):
        names = text.strip()[found.end() :].rstrip("?.! ")
        return f"detect {names}" if names else text
    if text.rstrip().endswith("?") or first in QUESTION_WORDS:
        return f"answer en {' '.join(words)}"
    return f"detect {' '.join(words)}"


def prompt_note(prompt: str) -> str:
    """What is to be said of a raw prompt that has none of the forms; "" for one that has."""
    likely = likely_prompt(prompt)
    if likely == " ".join(prompt.split()):
        return ""
    return f"Prompts have the forms {FORMS}. This one is likely meant as: {likely}"


def plain_words(prompt: str) -> str:
    """A prompt as the built-in model was trained on them.

    Small letters, no full stop, "color", and names without an article.
    """
    plain = re.sub(r"colour", "color", prompt.lower())
    plain = re.sub(r"((?:^(?:detect|segment)|;)\s+)(?:an?|the)\s+(?=\w)", r"\1", plain)
    return re.sub(r"\s*\.+(?=\s*(?:;|$))", "", plain)


def untrained_note(prompt: str) -> str:
    """What is to be said of a style or language that the built-in model was not trained on."""
    form, _, rest = prompt.partition(" ")
    language = rest.split(" ")[0]
    if form in WITH_LANGUAGE and (form not in BUILT_IN_FORMS or language != "en"):
        return f"The built-in model was not trained on “{form} {language}”: it knows {BUILT_IN}."
    return ""


def unknown_names(prompt: str, known: Collection[str]) -> list[str]:
    """The names that a detection or segmentation prompt asks for, and that are not known."""
    task, _, names = prompt.partition(" ")
    if task not in WITH_NAMES or not known:
        return []
    asked = dict.fromkeys(name.strip() for name in names.split(";"))
    return [name for name in asked if name and name not in known]


def without_names(prompt: str, names: Collection[str]) -> str:
    """A detection or segmentation prompt without these names; as it is if none would be left."""
    task, _, listed = prompt.partition(" ")
    left = [name for name in map(str.strip, listed.split(";")) if name and name not in names]
    return f"{task} {' ; '.join(left)}" if names and left else prompt
