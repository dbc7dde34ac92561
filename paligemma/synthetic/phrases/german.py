"""German: three genders, adjectives that follow them, and nouns that change in other cases."""

from dataclasses import dataclass

from paligemma.synthetic.phrases.grammar import MARK, Entry, Grammar, Noun

GENDERS = {"der": "m", "die": "f", "das": "n"}
ARTICLES = {"m": "ein", "f": "eine", "n": "ein"}
ENDINGS = {"m": "er", "f": "e", "n": "es"}  # ein roter Hund, eine rote Katze, ein rotes Auto

SHORT = {
    "Glas Milch": "Milch",
    "Maiskolben": "Mais",
    "Maskenpaar": "Masken",
    "Pommestüte": "Pommes",
    "Popcorntüte": "Popcorn",
    "Reisschüssel": "Reis",
    "Schwerterpaar": "Schwerter",
    "Skipaar": "Ski",
    "Spaghettiteller": "Spaghetti",
    "Speckstreifen": "Speck",
    "Weinglas": "Wein",
}


@dataclass(frozen=True)
class GermanNoun(Noun):
    acc: str  # einen Hund, a dog as an object
    dat: str  # dem Hund, the dog after "links von"


def entry(singular: str, plural: str) -> Entry:
    article, name = singular.split(" ", 1)
    gender = GENDERS[article]
    return Entry(name, plural, gender, ARTICLES[gender], SHORT.get(name, name))


def noun(entry: Entry, color: str, size: str) -> GermanNoun:
    stems = [STEMS[word] for word in (size, color) if word]
    name, plural = entry.name, entry.plural
    if name[0].islower():  # das offene Buch, offene Bücher
        first, name = name.split(" ", 1)
        stems.append(first[:-1])
        plural = plural.split(" ", 1)[1]
    gender, article = entry.gender, entry.article
    oblique = plural if _is_weak(entry) else name
    strong, weak = _phrase(stems, ENDINGS[gender], name), _phrase(stems, "e", name)
    definite = {"m": "der", "f": "die", "n": "das"}[gender]
    acc = f"einen {_phrase(stems, 'en', oblique)}" if gender == "m" else f"{article} {strong}"
    return GermanNoun(
        label=strong if stems else entry.short,
        plural=_phrase(stems, "e", plural) + MARK,
        a=f"{article} {strong}{MARK}",
        the=f"{definite} {weak}{MARK}",
        no=f"k{article} {strong}{MARK}",
        acc=acc + MARK,
        dat=f"{'der' if gender == 'f' else 'dem'} {_phrase(stems, 'en', oblique)}{MARK}",
    )


def _phrase(stems: list[str], ending: str, name: str) -> str:
    declined = [stem if stem in INVARIABLE else stem + ending for stem in stems]
    return " ".join([*declined, name])


def _is_weak(entry: Entry) -> bool:
    """Whether it has an ending in every case but the first, that of the plural: dem Bären."""
    plurals = (f"{entry.name}n", f"{entry.name}en")
    return entry.gender == "m" and entry.plural in plurals and not entry.name.endswith("or")


def ground(color: str) -> str:
    return f"auf {_phrase([STEMS[color]], 'em', 'Hintergrund')}"


CATEGORIES = {
    "animal": ("das Tier", "Tiere"),
    "plant": ("die Pflanze", "Pflanzen"),
    "food": ("das Lebensmittel", "Lebensmittel", "Essen"),
    "drink": ("das Getränk", "Getränke"),
    "vehicle": ("das Fahrzeug", "Fahrzeuge"),
    "building": ("das Gebäude", "Gebäude"),
    "nature": ("das Naturobjekt", "Naturobjekte", "Natur"),
    "tool": ("das Werkzeug", "Werkzeuge"),
    "instrument": ("das Instrument", "Instrumente", "Musikinstrumente"),
    "clothing": ("das Kleidungsstück", "Kleidungsstücke", "Kleidung"),
    "sport": ("der Sportartikel", "Sportartikel"),
    "household": ("der Haushaltsgegenstand", "Haushaltsgegenstände"),
    "electronics": ("das Gerät", "Geräte"),
    "office": ("der Büroartikel", "Büroartikel"),
    "toy": ("das Spielzeug", "Spielzeuge"),
}
COLORS = {
    "red": "rot",
    "orange": "orange",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": "lila",
    "pink": "rosa",
    "brown": "braun",
    "black": "schwarz",
    "white": "weiß",
    "gray": "grau",
    "beige": "beige",
    "teal": "türkis",
    "navy": "dunkelblau",
}
INVARIABLE = {"lila", "rosa"}
STEMS = COLORS | {
    "orange": "orangefarben",
    "beige": "beigefarben",
    "teal": "türkisfarben",
    "large": "groß",
    "small": "klein",
}
PLACES = {
    "top left": "oben links",
    "top": "oben",
    "top right": "oben rechts",
    "left": "links",
    "middle": "in der Mitte",
    "right": "rechts",
    "bottom left": "unten links",
    "bottom": "unten",
    "bottom right": "unten rechts",
}
QUESTIONS = {
    "count": (
        "wie viele {0.plural} gibt es?",
        "wie viele {0.plural} sind {here}?",
        "wie viele {0.plural} siehst du?",
        "wie viele {0.plural} sind {here} zu sehen?",
    ),
    "count_all": (
        "wie viele Dinge gibt es?",
        "wie viele Dinge sind {here}?",
        "wie viele Objekte gibt es?",
        "wie viele Objekte sind {here}?",
        "wie viele Dinge siehst du?",
    ),
    "color": (
        "welche Farbe hat {0.the}?",
        "was für eine Farbe hat {0.the}?",
        "in welcher Farbe ist {0.the}?",
    ),
    "what_color": ("was ist {color}?", "was ist {here} {color}?", "welches Ding ist {color}?"),
    "what_at": (
        "was ist {place}?",
        "was ist {here} {place}?",
        "was siehst du {place}?",
        "was befindet sich {place}?",
        "welches Ding ist {place}?",
    ),
    "category": (
        "was für ein Ding ist {0.the}?",
        "was für eine Art Ding ist {0.the}?",
    ),
    "category_at": ("was für ein Ding ist {place}?", "was für eine Art Ding ist {place}?"),
    "where": (
        "wo ist {0.the}?",
        "wo ist {0.the} {here}?",
        "wo befindet sich {0.the}?",
    ),
    "larger_of": (
        "was ist größer, {0.the} oder {1.the}?",
        "welches Ding ist größer, {0.the} oder {1.the}?",
    ),
    "smaller_of": (
        "was ist kleiner, {0.the} oder {1.the}?",
        "welches Ding ist kleiner, {0.the} oder {1.the}?",
    ),
    "larger_than": ("ist {0.the} größer als {1.the}?",),
    "smaller_than": ("ist {0.the} kleiner als {1.the}?",),
    "largest": (
        "was ist am größten?",
        "was ist das größte Ding?",
        "welches Ding ist am größten?",
    ),
    "smallest": (
        "was ist am kleinsten?",
        "was ist das kleinste Ding?",
        "welches Ding ist am kleinsten?",
    ),
    "left_of": ("ist {0.the} links von {1.dat}?", "ist {0.the} weiter links als {1.the}?"),
    "right_of": ("ist {0.the} rechts von {1.dat}?", "ist {0.the} weiter rechts als {1.the}?"),
    "above": ("ist {0.the} über {1.dat}?", "ist {0.the} weiter oben als {1.the}?"),
    "below": ("ist {0.the} unter {1.dat}?", "ist {0.the} weiter unten als {1.the}?"),
    "presence": (
        "gibt es {0.acc}?",
        "gibt es {here} {0.acc}?",
        "ist {0.a} {here}?",
        "siehst du {0.acc}?",
        "ist {0.a} zu sehen?",
        "gibt es {0.plural}?",
    ),
    "any_text": (
        "gibt es einen Text?",
        "gibt es {here} Text?",
        "steht etwas geschrieben?",
        "steht da ein Wort?",
    ),
    "written": (
        "was steht da?",
        "was steht {here}?",
        "was steht geschrieben?",
        "was ist geschrieben?",
        "wie lautet der Text?",
        "lies den Text.",
    ),
    "what_all": (
        "was ist {here}?",
        "was siehst du?",
        "was ist das?",
        "was ist {here} zu sehen?",
        "welche Dinge gibt es?",
        "was gibt es?",
    ),
    "which": (
        "welche {0.plural} gibt es?",
        "welche {0.plural} sind {here}?",
        "welche {0.plural} siehst du?",
    ),
}

GERMAN = Grammar(
    code="de",
    entry=entry,
    noun=noun,
    categories=CATEGORIES,
    background="der Hintergrund",
    colors=COLORS,
    positions=PLACES,
    places=PLACES,
    questions=QUESTIONS,
    here=("im Bild", "auf dem Bild", "in diesem Bild", "auf diesem Bild", "auf dem Foto"),
    everything=("alles", "alle Dinge", "alle Objekte"),
    numbers=("kein", "ein", "zwei", "drei", "vier", "fünf", "sechs"),
    yes="ja",
    no="nein",
    nothing="nichts",
    unknown="das Wort kenne ich nicht",
    conjunction="und",
    ground=ground,
    placed="{0} ist {place}",
    several="es gibt {0}",
    the_background="der Hintergrund ist {color}",
)
