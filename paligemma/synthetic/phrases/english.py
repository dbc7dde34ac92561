"""English."""

from dataclasses import dataclass

from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.phrases.grammar import MARK, Entry, Grammar, Noun

# What the table of kinds calls "a pair of scissors" is "scissors" for short: the name there.
SHORT = {kind.singular["en"].split(" ", 1)[1]: kind.name for kind in all_kinds()} | {
    "piece of clothing": "clothing",
}


@dataclass(frozen=True)
class EnglishNoun(Noun):
    is_the: str  # is the dog, are the scissors


def entry(singular: str, plural: str) -> Entry:
    article, name = singular.split(" ", 1)
    return Entry(name, plural, "", article, SHORT.get(name, name))


def noun(entry: Entry, color: str, size: str) -> EnglishNoun:
    adjectives = " ".join(filter(None, (size, color)))
    before = f"{adjectives} " if adjectives else ""
    article = ("an" if adjectives[0] in "aeiou" else "a") if adjectives else entry.article
    short = f"{before}{entry.short}"
    is_plural = entry.short != entry.name and entry.short.endswith("s")
    return EnglishNoun(
        label=short,
        plural=f"{before}{entry.plural}{MARK}",
        a=f"{article} {before}{entry.name}{MARK}",
        the=f"the {short}{MARK}",
        no=f"no {short}{MARK}",
        is_the=f"{'are' if is_plural else 'is'} the {short}{MARK}",
    )


def ground(color: str) -> str:
    return f"on {'an' if color[0] in 'aeiou' else 'a'} {color} background"


CATEGORIES = {
    "animal": ("an animal", "animals"),
    "plant": ("a plant", "plants"),
    "food": ("a food", "foods"),
    "drink": ("a drink", "drinks"),
    "vehicle": ("a vehicle", "vehicles"),
    "building": ("a building", "buildings"),
    "nature": ("a natural thing", "natural things", "nature"),
    "tool": ("a tool", "tools"),
    "instrument": ("an instrument", "instruments", "musical instruments"),
    "clothing": ("a piece of clothing", "pieces of clothing", "clothes"),
    "sport": ("a sports item", "sports items"),
    "household": ("a household item", "household items"),
    "electronics": ("a device", "devices", "electronics"),
    "office": ("an office item", "office items"),
    "toy": ("a toy", "toys"),
}
COLORS = "red orange yellow green blue purple pink brown black white gray beige teal navy".split()
PLACES = {
    "top left": "at the top left",
    "top": "at the top",
    "top right": "at the top right",
    "left": "on the left",
    "middle": "in the middle",
    "right": "on the right",
    "bottom left": "at the bottom left",
    "bottom": "at the bottom",
    "bottom right": "at the bottom right",
}
QUESTIONS = {
    "count": (
        "how many {0.plural} are there?",
        "how many {0.plural} are {here}?",
        "how many {0.plural} do you see?",
        "how many {0.plural} can you see {here}?",
        "count the {0.plural}.",
    ),
    "count_all": (
        "how many things are there?",
        "how many things are {here}?",
        "how many objects are there?",
        "how many objects are {here}?",
        "how many things do you see?",
    ),
    "color": (
        "what color {0.is_the}?",
        "which color {0.is_the}?",
        "what is the color of {0.the}?",
    ),
    "what_color": ("what is {color}?", "what is {color} {here}?", "which thing is {color}?"),
    "what_at": (
        "what is {place}?",
        "what is {place} {here}?",
        "what is there {place}?",
        "what do you see {place}?",
        "which thing is {place}?",
    ),
    "category": (
        "what kind of thing {0.is_the}?",
        "what sort of thing {0.is_the}?",
        "what type of thing {0.is_the}?",
    ),
    "category_at": ("what kind of thing is {place}?", "what sort of thing is {place}?"),
    "where": (
        "where {0.is_the}?",
        "where {0.is_the} {here}?",
        "where do you see {0.the}?",
        "where can you see {0.the} {here}?",
    ),
    "larger_of": (
        "which is larger, {0.the} or {1.the}?",
        "which is bigger, {0.the} or {1.the}?",
        "what is larger, {0.the} or {1.the}?",
    ),
    "smaller_of": (
        "which is smaller, {0.the} or {1.the}?",
        "what is smaller, {0.the} or {1.the}?",
    ),
    "larger_than": ("{0.is_the} larger than {1.the}?", "{0.is_the} bigger than {1.the}?"),
    "smaller_than": ("{0.is_the} smaller than {1.the}?",),
    "largest": (
        "what is the largest thing?",
        "which thing is the largest?",
        "what is the biggest thing {here}?",
    ),
    "smallest": ("what is the smallest thing?", "which thing is the smallest?"),
    "left_of": (
        "{0.is_the} left of {1.the}?",
        "{0.is_the} to the left of {1.the}?",
        "{0.is_the} on the left of {1.the}?",
    ),
    "right_of": (
        "{0.is_the} right of {1.the}?",
        "{0.is_the} to the right of {1.the}?",
        "{0.is_the} on the right of {1.the}?",
    ),
    "above": ("{0.is_the} above {1.the}?", "{0.is_the} higher than {1.the}?"),
    "below": ("{0.is_the} below {1.the}?", "{0.is_the} lower than {1.the}?"),
    "presence": (
        "is there {0.a}?",
        "is there {0.a} {here}?",
        "do you see {0.a}?",
        "can you see {0.a}?",
        "are there any {0.plural}?",
        "are there {0.plural} {here}?",
    ),
    "any_text": (
        "is there any text?",
        "is there any text {here}?",
        "is something written?",
        "is there a word {here}?",
    ),
    "written": (
        "what is written?",
        "what is written {here}?",
        "what does it say?",
        "what does the text say?",
        "what is the text?",
        "read the text.",
    ),
    "what_all": (
        "what is {here}?",
        "what do you see?",
        "what is this?",
        "what can you see {here}?",
        "which things are there?",
        "what is there?",
    ),
    "which": (
        "which {0.plural} are there?",
        "which {0.plural} are {here}?",
        "what {0.plural} do you see?",
    ),
}

ENGLISH = Grammar(
    code="en",
    entry=entry,
    noun=noun,
    categories=CATEGORIES,
    background="a background",
    colors={color: color for color in COLORS},
    positions={name: name for name in PLACES},
    places=PLACES,
    questions=QUESTIONS,
    here=("in the image", "in the picture", "in this image", "in this picture", "in the photo"),
    everything=("all", "everything", "all things", "all objects"),
    numbers=("no", "a", "two", "three", "four", "five", "six"),
    yes="yes",
    no="no",
    nothing="nothing",
    unknown="I don't know that word",
    conjunction="and",
    ground=ground,
    placed="{0} is {place}",
    several="there are {0}",
    the_background="the background is {color}",
)
