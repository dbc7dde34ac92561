"""What is asked about scenes: grammar, and the truth of every answer, judged by other code."""

import re
from collections import Counter
from random import Random

import numpy as np
import pytest

from paligemma.detections import LAST_LOC, parse
from paligemma.synthetic.composed_scene import ComposedScene, SceneObject, SceneText
from paligemma.synthetic.grounds import GROUND_COLORS
from paligemma.synthetic.kinds import all_kinds, categories, kind_number
from paligemma.synthetic.phrases.broader import BROADER
from paligemma.synthetic.phrases.facts import POSITIONS, Fact, SceneFacts, Term, is_clear
from paligemma.synthetic.phrases.grammar import MARK, split_marks
from paligemma.synthetic.phrases.languages import GRAMMARS
from paligemma.synthetic.phrases.questions import UNKNOWN_TOPICS, choose_facts
from paligemma.synthetic.phrases.samples import (
    caption,
    groups,
    question,
    region,
    samples,
    unknown_fact,
)
from paligemma.synthetic.phrases.search import new_word, vocabulary
from paligemma.synthetic.phrases.unknown_words import unknown_words
from paligemma.synthetic.phrases.words import texts, words
from paligemma.synthetic.restyle import COLORS
from paligemma.synthetic.scene_options import COUNTS

KINDS = {kind.name: kind for kind in all_kinds()}
LANGUAGES = list(GRAMMARS)


def thing(name, box, color="", artist="noto", visible=1.0, area=None):
    x1, y1, x2, y2 = box
    area = 0.7 * (x2 - x1) * (y2 - y1) if area is None else area
    return SceneObject(name, kind_number(name), artist, color, box, visible, area, 0.0, False)


def scene(*things, background="green", lines=()):
    line_texts = tuple(SceneText(line, "Lato", ((0.0, 0.0, 0.1, 0.1),)) for line in lines)
    owners = np.zeros((1, 1), np.uint8)
    return ComposedScene(0, background, "plain", things, line_texts, (), owners)


def random_scene(random):
    things = []
    for _ in range(random.choices(range(7), COUNTS)[0]):
        name = random.choice(list(KINDS))
        if things and random.random() < 0.3:
            name = random.choice(things).name
        w, h = random.uniform(0.12, 0.5), random.uniform(0.12, 0.5)
        x, y = random.uniform(0, 1 - w), random.uniform(0, 1 - h)
        painted = random.random() < 0.4
        color = random.choice(COLORS) if painted or random.random() < 0.4 else ""
        visible = random.uniform(0.1, 0.4) if random.random() < 0.1 else 1.0
        area = random.uniform(0.4, 0.9) * w * h * visible
        artist = "dejavu" if painted else "noto"
        things.append(thing(name, (x, y, x + w, y + h), color, artist, visible, area))
    lines = [
        random.choice(("STOP", "Hello", "café 12")) for _ in range(random.choice((0, 0, 1, 2)))
    ]
    background = random.choice(("", *GROUND_COLORS))
    return scene(*things, background=background, lines=lines)


CAR = thing("car", (0.7, 0.05, 0.85, 0.2), "red", "dejavu")
DOG = thing("dog", (0.05, 0.3, 0.5, 0.75))
CATS = thing("cat", (0.55, 0.7, 0.75, 0.95)), thing("cat", (0.75, 0.7, 0.95, 0.95))
STREET = scene(CAR, DOG, *CATS, lines=("STOP", "here"))


def said(text):
    return split_marks(text)[0]


# --- grammar --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "language, style, expected",
    [
        ("en", "caption", "a red car, a dog and two cats on a green background"),
        ("de", "caption", "ein rotes Auto, ein Hund und zwei Katzen auf grünem Hintergrund"),
        ("fr", "caption", "une voiture rouge, un chien et deux chats sur un fond vert"),
        ("es", "caption", "un coche rojo, un perro y dos gatos sobre un fondo verde"),
        ("en", "cap", "car, dog, two cats"),
        ("de", "cap", "Auto, Hund, zwei Katzen"),
        ("fr", "cap", "voiture, chien, deux chats"),
        ("es", "cap", "coche, perro, dos gatos"),
        ("en", "describe", "A small red car is at the top right and a large dog is on the left."
         " There are two cats. The background is green."),
        ("de", "describe", "Ein kleines rotes Auto ist oben rechts und ein großer Hund ist links."
         " Es gibt zwei Katzen. Der Hintergrund ist grün."),
        ("fr", "describe", "Une petite voiture rouge est en haut à droite et un grand chien est à"
         " gauche. Il y a deux chats. Le fond est vert."),
        ("es", "describe", "Un coche rojo pequeño está arriba a la derecha y un perro grande está a"
         " la izquierda. Hay dos gatos. El fondo es verde."),
    ],
)  # fmt: skip
def test_captions(language, style, expected):
    sample = caption(SceneFacts(STREET), style, GRAMMARS[language], Random(0))
    assert sample.prefix == f"{style} {language}"
    assert sample.suffix == expected


@pytest.mark.parametrize(
    "language, style, expected",
    [
        ("en", "caption", "nothing on a white background"),
        ("de", "caption", "nichts auf weißem Hintergrund"),
        ("fr", "cap", "rien"),
        ("es", "describe", "El fondo es blanco."),
    ],
)
def test_an_empty_scene(language, style, expected):
    facts = SceneFacts(scene(background="white"))
    assert caption(facts, style, GRAMMARS[language], Random(0)).suffix == expected


def test_a_background_without_a_name_is_not_named():
    facts = SceneFacts(scene(DOG, background=""))
    assert caption(facts, "caption", GRAMMARS["en"], Random(0)).suffix == "a dog"
    assert caption(facts, "describe", GRAMMARS["en"], Random(0)).suffix == (
        "A large dog is on the left."
    )


KIND = lambda name, color="": Term("kind", name, color)
ANIMAL = Term("category", "animal")


@pytest.mark.parametrize(
    "fact, expected",
    [
        (Fact("count", (KIND("cat"),), ("count", 2)),
         {"en": ("how many cats are there?", "2"), "de": ("wie viele Katzen gibt es?", "2"),
          "fr": ("combien de chats y a-t-il ?", "2"), "es": ("¿cuántos gatos hay?", "2")}),
        (Fact("count", (ANIMAL,), ("count", 3)),
         {"en": ("how many animals are there?", "3"), "de": ("wie viele Tiere gibt es?", "3"),
          "fr": ("combien d'animaux y a-t-il ?", "3"), "es": ("¿cuántos animales hay?", "3")}),
        (Fact("color", (KIND("star"),), ("color", "purple")),
         {"en": ("what color is the star?", "purple"),
          "de": ("welche Farbe hat der Stern?", "lila"),
          "fr": ("de quelle couleur est l'étoile ?", "violet"),
          "es": ("¿de qué color es la estrella?", "morado")}),
        (Fact("color", (Term("background", "background"),), ("color", "teal")),
         {"en": ("what color is the background?", "teal"),
          "de": ("welche Farbe hat der Hintergrund?", "türkis"),
          "fr": ("de quelle couleur est le fond ?", "turquoise"),
          "es": ("¿de qué color es el fondo?", "turquesa")}),
        (Fact("where", (KIND("eagle"),), ("absent", None)),
         {"en": ("where is the eagle?", "no eagle"), "de": ("wo ist der Adler?", "kein Adler"),
          "fr": ("où est l'aigle ?", "pas d'aigle"),
          "es": ("¿dónde está el águila?", "ningún águila")}),
        (Fact("where", (KIND("scissors"),), ("position", "middle")),
         {"en": ("where are the scissors?", "middle"),
          "de": ("wo ist die Schere?", "in der Mitte"),
          "fr": ("où est la paire de ciseaux ?", "au milieu"),
          "es": ("¿dónde está el par de tijeras?", "en el centro")}),
        (Fact("presence", (KIND("bear", "brown"),), ("bool", True)),
         {"en": ("is there a brown bear?", "yes"), "de": ("gibt es einen braunen Bären?", "ja"),
          "fr": ("y a-t-il un ours marron ?", "oui"), "es": ("¿hay un oso marrón?", "sí")}),
        (Fact("presence", (KIND("glasses", "red"),), ("bool", False)),
         {"en": ("is there a red pair of glasses?", "no"),
          "de": ("gibt es eine rote Brille?", "nein"),
          "fr": ("y a-t-il une paire de lunettes rouges ?", "non"),
          "es": ("¿hay un par de gafas rojas?", "no")}),
        (Fact("presence", (KIND("open book", "orange"),), ("bool", False)),
         {"en": ("is there an orange open book?", "no"),
          "de": ("gibt es ein orangefarbenes offenes Buch?", "nein"),
          "fr": ("y a-t-il un livre ouvert orange ?", "non"),
          "es": ("¿hay un libro abierto naranja?", "no")}),
        (Fact("larger_of", (KIND("dog"), KIND("car")), ("kind", "dog")),
         {"en": ("which is larger, the dog or the car?", "dog"),
          "de": ("was ist größer, der Hund oder das Auto?", "Hund"),
          "fr": ("qu'est-ce qui est plus grand, le chien ou la voiture ?", "chien"),
          "es": ("¿qué es más grande, el perro o el coche?", "perro")}),
        (Fact("smaller_than", (KIND("cow"), KIND("lion")), ("bool", True)),
         {"en": ("is the cow smaller than the lion?", "yes"),
          "de": ("ist die Kuh kleiner als der Löwe?", "ja"),
          "fr": ("la vache est-elle plus petite que le lion ?", "oui"),
          "es": ("¿es la vaca más pequeña que el león?", "sí")}),
        (Fact("left_of", (KIND("dog"), KIND("monkey")), ("bool", False)),
         {"en": ("is the dog left of the monkey?", "no"),
          "de": ("ist der Hund links von dem Affen?", "nein"),
          "fr": ("le chien est-il à gauche du singe ?", "non"),
          "es": ("¿está el perro a la izquierda del mono?", "no")}),
        (Fact("above", (KIND("owl"), KIND("helicopter")), ("bool", False)),
         {"en": ("is the owl above the helicopter?", "no"),
          "de": ("ist die Eule über dem Hubschrauber?", "nein"),
          "fr": ("le hibou est-il au-dessus de l'hélicoptère ?", "non"),
          "es": ("¿está el búho encima del helicóptero?", "no")}),
        (Fact("what_at", (), ("list", groups(STREET)), place="top left"),
         {"en": ("what is at the top left?", "car, dog, two cats"),
          "de": ("was ist oben links?", "Auto, Hund, zwei Katzen"),
          "fr": ("qu'y a-t-il en haut à gauche ?", "voiture, chien, deux chats"),
          "es": ("¿qué hay arriba a la izquierda?", "coche, perro, dos gatos")}),
        (Fact("category", (KIND("shoe"),), ("category", "clothing")),
         {"en": ("what kind of thing is the shoe?", "clothing"),
          "de": ("was für ein Ding ist der Schuh?", "Kleidungsstück"),
          "fr": ("quel genre de chose est la chaussure ?", "vêtement"),
          "es": ("¿qué tipo de cosa es el zapato?", "prenda")}),
        (Fact("which", (Term("category", "plant"),), ("list", ())),
         {"en": ("which plants are there?", "nothing"),
          "de": ("welche Pflanzen gibt es?", "nichts"),
          "fr": ("quelles plantes y a-t-il ?", "rien"), "es": ("¿qué plantas hay?", "nada")}),
        (Fact("presence", (Term("unknown", "woman"),), ("unknown", None)),
         {"en": ("is there a woman?", "I don't know that word"),
          "de": ("gibt es eine Frau?", "das Wort kenne ich nicht"),
          "fr": ("y a-t-il une femme ?", "je ne connais pas ce mot"),
          "es": ("¿hay una mujer?", "no conozco esa palabra")}),
    ],
)  # fmt: skip
def test_questions_and_answers(fact, expected):
    if isinstance(fact.answer[1], list):
        plain = tuple(group._replace(color="") for group in fact.answer[1])
        fact = fact._replace(answer=("list", plain))
    for language, grammar in GRAMMARS.items():
        asked, answered = said(grammar.question(fact)), said(grammar.answer(fact))
        assert (asked, answered) == expected[language]


@pytest.mark.parametrize(
    "language, name, color, expected",
    [
        ("en", "apple", "", "an apple"),
        ("en", "apple", "red", "a red apple"),
        ("en", "unicorn", "", "a unicorn"),
        ("en", "hourglass", "orange", "an orange hourglass"),
        ("de", "cat", "green", "eine grüne Katze"),
        ("de", "dog", "pink", "ein rosa Hund"),
        ("de", "heart", "gray", "ein graues Herz"),
        ("de", "open book", "", "ein offenes Buch"),
        ("fr", "star", "white", "une étoile blanche"),
        ("fr", "heart", "gray", "un cœur gris"),
        ("fr", "scissors", "green", "une paire de ciseaux verts"),
        ("es", "eagle", "black", "un águila negra"),
        ("es", "star", "yellow", "una estrella amarilla"),
        ("es", "scissors", "red", "un par de tijeras rojas"),
    ],
)
def test_articles_and_adjectives(language, name, color, expected):
    assert said(GRAMMARS[language].forms(KIND(name, color)).a) == expected


@pytest.mark.parametrize(
    "language, name, color, expected",
    [
        ("en", "mouse", "blue", "two blue mice"),
        ("de", "open book", "red", "two rote offene Bücher"),
        ("fr", "horse", "white", "two chevaux blancs"),
        ("fr", "star", "brown", "two étoiles marron"),
        ("es", "star", "blue", "two estrellas azules"),
        ("es", "eagle", "white", "two águilas blancas"),
    ],
)
def test_plurals(language, name, color, expected):
    grammar = GRAMMARS[language]
    counted = said(grammar.counted(KIND(name, color), 2))
    assert counted == expected.replace("two", grammar.numbers[2])


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_words_for_everything(language):
    grammar, english = GRAMMARS[language], GRAMMARS["en"]
    assert grammar.questions.keys() == english.questions.keys()
    assert set(grammar.categories) == set(categories())
    assert {*COLORS, *GROUND_COLORS} <= grammar.colors.keys()
    assert grammar.places.keys() == grammar.positions.keys() == POSITIONS.keys()
    assert len(grammar.numbers) > 6
    for kind in KINDS.values():
        noun = grammar.forms(KIND(kind.name))
        forms = {name: form for name, form in vars(noun).items() if MARK in form}
        assert {"a", "the", "no", "plural"} <= forms.keys()
        assert all(form.count(MARK) == 1 and form.endswith(MARK) for form in forms.values())
        assert noun.plural == kind.plural[language] + MARK
        if language != "de":  # its table has the definite article
            assert said(noun.a) == kind.singular[language].removesuffix(" f")
        else:
            assert said(noun.the) == kind.singular["de"]
    for color in COLORS:
        assert grammar.forms(KIND("dog", color)).label != grammar.forms(KIND("dog")).label


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_frame_names_each_noun_once(language):
    grammar = GRAMMARS[language]
    first, second = grammar.forms(KIND("dog")), grammar.forms(KIND("cat"))
    for topic, frames in grammar.questions.items():
        for frame in frames:
            text = frame.format(first, second, here="", place="", color="")
            ends = text.count(MARK)
            assert ends == ("{0" in frame) + ("{1" in frame), (topic, frame)
            assert frame[-1] in "?." and "{here}" not in grammar.questions[topic][0][:1]


def test_elision():
    forms = GRAMMARS["fr"].forms
    assert said(forms(KIND("island" if "island" in KINDS else "tree")).the).startswith("l'")
    assert said(forms(KIND("owl")).the) == "le hibou"  # an h that counts as a consonant
    assert said(forms(KIND("hospital")).of) == "de l'hôpital"
    assert said(forms(KIND("tree")).of_plural) == "d'arbres"


def test_broader_names_are_kinds():
    assert {*BROADER, *(name for names in BROADER.values() for name in names)} <= KINDS.keys()


# --- truth, judged by code that shares nothing with what is judged --------------------------------

NAMES = {}
for kind in KINDS.values():
    singular = kind.singular["en"].split(" ", 1)[1]
    NAMES |= {form.lower(): kind.name for form in (kind.name, singular, kind.plural["en"])}
CATEGORIES = {
    form: category
    for category, (singular, plural, *_) in GRAMMARS["en"].categories.items()
    for form in (singular.split(" ", 1)[1], plural)
} | {"clothing": "clothing"}
NUMBERS = ("nothing", "a", "two", "three", "four", "five", "six")


def center(o):
    return (o.box[0] + o.box[2]) / 2, (o.box[1] + o.box[3]) / 2


class Judge:
    """Answers English questions about a scene by looking at all of its objects."""

    def __init__(self, scene):
        self.scene = scene
        self.clear = [o for o in scene.objects if o.visible >= 0.35 or o.area >= 0.04]
        self.hidden = [o for o in scene.objects if o not in self.clear]

    def noun(self, words):
        """(what it is, those of it that are clear); no hidden one may be meant."""
        words = re.sub("^(a|an|the|any) ", "", words)
        if words in NAMES:
            is_it = lambda o: o.name == NAMES[words]
        elif words in CATEGORIES:
            is_it = lambda o: KINDS[o.name].category == CATEGORIES[words]
        else:
            color, words = words.split(" ", 1)
            is_it = lambda o: o.name == NAMES[words] and (o.color == color)
            assert all(o.color for o in self.scene.objects if o.name == NAMES[words])
        assert not any(map(is_it, self.hidden))
        return [o for o in self.clear if is_it(o)]

    def one(self, words):
        found = self.noun(words)
        assert len(found) <= 1
        return found[0] if found else None

    def listed(self, things):
        counts = Counter(o.name for o in sorted(things, key=lambda o: o.box[1]))
        names = [
            name if n == 1 else f"{NUMBERS[n]} {KINDS[name].plural['en']}"
            for name, n in counts.items()
        ]
        return ", ".join(names) or "nothing"

    def at(self, place):
        """Things whose middle is in a part of the image."""
        words = place.replace("middle", "").split()[-2:]
        inside = self.clear
        third = lambda v: min(int(3 * v), 2)
        if "left" in words or "right" in words:
            inside = [o for o in inside if third(center(o)[0]) == (0 if "left" in words else 2)]
        if "top" in words or "bottom" in words:
            inside = [o for o in inside if third(center(o)[1]) == (0 if "top" in words else 2)]
        if "middle" in place:
            inside = [o for o in inside if third(center(o)[0]) == third(center(o)[1]) == 1]
        return inside

    def answer(self, question):
        """The answer to a question without its punctuation, in lower case."""
        q = re.sub(r" in (the|this) (image|picture|photo)$", "", question)
        q = q.replace("bigger", "larger").replace("biggest", "largest")
        place = r"(?:at|on|in) the ((?:top|bottom) (?:left|right)|top|bottom|left|right|middle)"
        if q in (
            "what is",
            "what do you see",
            "what is this",
            "what can you see",
            "what is there",
            "which things are there",
        ):
            return self.listed(self.clear)
        if re.fullmatch("how many (things|objects) (are there|are|do you see)", q):
            assert not self.hidden
            return str(len(self.clear))
        if q in ("is there any text", "is something written", "is there a word"):
            return "yes" if self.scene.texts else "no"
        if q in (
            "what is written",
            "what does it say",
            "what does the text say",
            "what is the text",
            "read the text",
        ):
            return " ".join(line.text for line in self.scene.texts) or "nothing"
        if found := re.fullmatch(
            r"how many (.+) (?:are there|are|do you see|can you see)|count the (.+)", q
        ):
            return str(len(self.noun(found[1] or found[2])))
        if q in (
            "what color is the background",
            "which color is the background",
            "what is the color of the background",
        ):
            return self.scene.background
        if found := re.fullmatch(
            r"(?:what|which) color (?:is|are) the (.+)|what is the color of the (.+)", q
        ):
            one = self.one(found[1] or found[2])
            return one.color if one else f"no {found[1] or found[2]}"
        if found := re.fullmatch(rf"what (?:kind|sort|type) of thing is {place}", q):
            [one] = self.at(found[1])
            return self.category(one.name)
        if found := re.fullmatch(r"what (?:kind|sort|type) of thing (?:is|are) the (.+)", q):
            one = self.one(found[1])
            return self.category(one.name) if one else f"no {found[1]}"
        if found := re.fullmatch(rf"(?:what|which thing) (?:is|is there|do you see) {place}", q):
            return self.listed(self.at(found[1]))
        if found := re.fullmatch(r"(?:what|which thing) is (\w+)", q):
            assert not self.hidden and all(o.color for o in self.clear)
            return self.listed([o for o in self.clear if o.color == found[1]])
        if found := re.fullmatch(r"where (?:is|are|do you see|can you see) the (.+)", q):
            if (one := self.one(found[1])) is None:
                return f"no {found[1]}"
            x, y = (min(int(3 * v), 2) for v in center(one))
            words = [("top", "", "bottom")[y], ("left", "", "right")[x]]
            return " ".join(filter(None, words)) or "middle"
        if found := re.fullmatch(r"(?:what|which) is (larger|smaller), the (.+) or the (.+)", q):
            a, b = self.one(found[2]), self.one(found[3])
            return found[2] if (a.area > b.area) == (found[1] == "larger") else found[3]
        if found := re.fullmatch(r"(?:is|are) the (.+) (larger|smaller) than the (.+)", q):
            a, b = self.one(found[1]), self.one(found[3])
            return "yes" if (a.area > b.area) == (found[2] == "larger") else "no"
        if found := re.fullmatch(
            r"(?:what is the (largest|smallest) thing|which thing is the (largest|smallest))", q
        ):
            assert not self.hidden
            best = max if (found[1] or found[2]) == "largest" else min
            return best(self.clear, key=lambda o: o.area).name
        if found := re.fullmatch(
            r"(?:is|are) the (.+?) (?:to the |on the )?(left of|right of|above|below|higher than|"
            r"lower than) the (.+)",
            q,
        ):
            (ax, ay), (bx, by) = center(self.one(found[1])), center(self.one(found[3]))
            true = {
                "left of": ax < bx,
                "right of": ax > bx,
                "above": ay < by,
                "higher than": ay < by,
                "below": ay > by,
                "lower than": ay > by,
            }[found[2]]
            return "yes" if true else "no"
        if found := re.fullmatch(r"(?:which|what) (.+) (?:are there|are|do you see)", q):
            return self.listed(self.noun(found[1]))
        if found := re.fullmatch(
            r"(?:is there|do you see|can you see|are there any|are there) (.+)", q
        ):
            return "yes" if self.noun(found[1]) else "no"
        raise AssertionError(f"the judge does not understand {question!r}")

    def category(self, name):
        singular = GRAMMARS["en"].categories[KINDS[name].category][0]
        return singular.split(" ", 1)[1].replace("piece of clothing", "clothing")


def plain(question):
    """A question as the judge reads it: no capitals, no marks, American."""
    text = question.lower().rstrip("?. ").replace("colour", "color").replace("grey", "gray")
    return text


def is_unknown(sample):
    return sample.suffix in {grammar.unknown for grammar in GRAMMARS.values()}


@pytest.fixture(scope="module")
def many():
    """Two thousand scenes with their samples."""
    random, rng = Random(7), np.random.default_rng(7)
    scenes = [random_scene(random) for _ in range(2000)]
    return [(one, samples(one, rng)) for one in scenes]


def test_every_english_answer_is_true(many):
    asked = Counter()
    for drawn, asked_about in many:
        judge = Judge(drawn)
        for sample in asked_about:
            if sample.task == "ask" and sample.prefix.startswith("answer en "):
                if is_unknown(sample):
                    continue
                words = plain(sample.prefix.removeprefix("answer en "))
                assert judge.answer(words).lower() == sample.suffix.lower(), (words, drawn)
                asked[words.split()[0]] += 1
            elif sample.task == "question" and sample.prefix.startswith("question en "):
                answer = sample.prefix.removeprefix("question en ")
                assert judge.answer(plain(sample.suffix)).lower() == answer.lower()
    assert sum(asked.values()) > 2000


def test_every_english_caption_is_true(many):
    count = 0
    for drawn, asked_about in many:
        judge = Judge(drawn)
        for sample in asked_about:
            if sample.task != "caption" or not sample.prefix.endswith(" en"):
                continue
            style = sample.prefix.split()[0].lower()
            text, count = sample.suffix, count + 1
            if style == "cap":
                assert text == judge.listed(judge.clear)
                continue
            if style == "caption":
                things, _, background = text.partition(" on a")
                color = drawn.background
                n = "n" if color[:1] in ("o", "") else ""  # an orange background
                assert background == (color and f"{n} {color} background")
                phrases = re.split(", | and (?!arrow)", things)
            else:
                clauses = re.split(r"(?<=[a-z])\.\s*| and (?!arrow)", text)
                phrases = [re.sub(r" (is|are) .*|^there are ", "", c.lower()) for c in clauses if c]
                if drawn.background:
                    assert text.endswith(f"The background is {drawn.background}.")
                    phrases.remove("the background")
            counted = Counter()
            for phrase in phrases:
                if phrase.lower() == "nothing":
                    continue
                number, rest = phrase.lower().split(" ", 1)
                rest = re.sub("^(large|small) ", "", rest)
                color = ""
                if rest not in NAMES:
                    color, rest = rest.split(" ", 1)
                number = 1 if number == "an" else NUMBERS.index(number)
                counted[NAMES[rest], color] += number
            true = Counter((o.name, o.color if o.artist == "dejavu" else "") for o in judge.clear)
            assert counted == true, text
    assert count > 500


def test_descriptions_say_where_things_are(many):
    count = 0
    for drawn, asked_about in many:
        judge = Judge(drawn)
        for sample in asked_about:
            if sample.task == "caption" and sample.prefix.lower() == "describe en":
                placed = (
                    r"[Aa]n? (large|small)? ?([a-z -]+) is ([aoi][tn] the [a-z ]+?)(?=\.| and )"
                )
                for size, name, place in re.findall(placed, sample.suffix):
                    found = [o for o in judge.clear if o.name == NAMES.get(name)]
                    if len(found) != 1:
                        continue
                    side = (
                        (found[0].box[2] - found[0].box[0]) * (found[0].box[3] - found[0].box[1])
                    ) ** 0.5
                    assert size == ("large" if side >= 0.4 else "small" if side <= 0.2 else "")
                    words = place.split()[2:]
                    x, y = (min(int(3 * v), 2) for v in center(found[0]))
                    cell = [("top", "", "bottom")[y], ("left", "", "right")[x]]
                    assert words == ([w for w in cell if w] or ["middle"])
                    count += 1
    assert count > 100


def test_what_is_hidden_is_not_asked_about(many):
    hidden = 0
    for drawn, asked_about in many:
        names = {o.name for o in drawn.objects if not is_clear(o)}
        hidden += len(names)
        for sample in asked_about:
            assert not {mention.name for mention in sample.names} & names
            assert all(is_clear(one) for one in sample.objects)
    assert hidden > 200


def test_a_large_thing_counts_though_little_of_it_is_visible():
    large = thing("dog", (0, 0, 0.4, 0.4), visible=0.3, area=0.1)
    small = thing("cat", (0.6, 0.6, 0.75, 0.75), visible=0.3, area=0.02)
    facts = SceneFacts(scene(large, small))
    assert [one.name for one in facts.things] == ["dog"] and not facts.complete
    assert said(GRAMMARS["en"].caption(facts)) == "a dog on a green background"


def test_nobody_asks_for_birds_beside_an_eagle():
    facts = SceneFacts(
        scene(thing("eagle", (0.1, 0.1, 0.4, 0.4)), thing("bird", (0.5, 0.5, 0.9, 0.9)))
    )
    random = Random(0)
    asked = [fact for _ in range(300) for fact in choose_facts(facts, random, 4)]
    assert not any(term.name == "bird" for fact in asked for term in fact.terms)
    assert any(term.name == "eagle" for fact in asked for term in fact.terms)


# --- detection ------------------------------------------------------------------------------------


def prompt_names(sample):
    return [word.strip() for word in sample.prefix.split(" ", 1)[1].split(";")]


def test_detections_are_what_was_asked_for(many):
    count = 0
    for drawn, asked_about in many:
        judge = Judge(drawn)
        for sample in asked_about:
            if sample.task not in ("detect", "segment"):
                continue
            if sample.task == "segment":
                assert sample.suffix == ""
                sample = sample.with_codes([range(16)] * len(sample.objects))
            found = parse(sample.suffix)
            assert [one.label for one in found] == list(sample.labels)
            for one, thing in zip(found, sample.objects, strict=True):
                assert one.box == pytest.approx(thing.box, abs=0.5 / LAST_LOC + 1e-9)
            expected = []
            for word in prompt_names(sample):
                meaning = vocabulary().get(word.casefold())
                if meaning is None:  # unknown, or with a color
                    words = plain(word).split(" ", 1)
                    if len(words) == 2 and words[0] in COLORS and words[1] in NAMES:
                        found_here = judge.noun(plain(word))
                    else:
                        found_here = [o for o in sample.objects if colored_label(word, o)]
                elif meaning.term.sort == "everything":
                    assert not judge.hidden
                    found_here = judge.clear
                elif meaning.term.sort == "category":
                    found_here = [
                        o for o in judge.clear if KINDS[o.name].category == meaning.term.name
                    ]
                else:
                    found_here = [o for o in judge.clear if o.name == meaning.term.name]
                expected += sorted(found_here, key=lambda o: o.box[1])
            assert list(sample.objects) == expected, (sample.prefix, drawn)
            count += 1
    assert count > 2000


def colored_label(word, thing):
    terms = [grammar.forms(KIND(thing.name, thing.color)) for grammar in GRAMMARS.values()]
    forms = {form.casefold() for noun in terms for form in (noun.label, said(noun.plural))}
    return thing.color and word.casefold().replace("grey", "gray") in forms


def test_labels_are_names_in_the_language_of_the_prompt(many):
    by_language = Counter()
    for _, asked_about in many:
        for sample in asked_about:
            if sample.task == "detect":
                for label, one in zip(sample.labels, sample.objects, strict=True):
                    languages = [
                        code
                        for code, grammar in GRAMMARS.items()
                        if label
                        in (
                            grammar.forms(KIND(one.name)).label,
                            grammar.forms(KIND(one.name, one.color)).label,
                        )
                    ]
                    assert languages
                    by_language[languages[0]] += 1
    assert all(by_language[language] > 100 for language in LANGUAGES)


def test_prompts_name_one_to_six_and_absent_ones(many):
    sizes, empty, total = Counter(), 0, 0
    for _, asked_about in many:
        for sample in asked_about:
            if sample.task == "detect":
                sizes[len(prompt_names(sample))] += 1
                empty += not sample.objects
                total += 1
    assert set(sizes) == {1, 2, 3, 4, 5, 6}
    assert 0.15 < empty / total < 0.5


def test_each_object_is_found_once(many):
    for _, asked_about in many:
        for sample in asked_about:
            assert len({id(one) for one in sample.objects}) == len(sample.objects)


def test_a_word_of_two_languages_is_of_the_first():
    assert vocabulary()["hamster"].grammar.code == "en"
    assert vocabulary()["hund"].term == KIND("dog") and vocabulary()["hund"].grammar.code == "de"
    assert vocabulary()["tijeras"].term == KIND("scissors")
    assert vocabulary()["animaux"].term == ANIMAL


# --- the rest -------------------------------------------------------------------------------------


def test_unknown_words_are_no_names():
    known = set(vocabulary())
    for name, forms in unknown_words().items():
        assert name.casefold() not in known
        for singular, plural in forms.values():
            singular = singular.split(" ", 1)[1].removesuffix(" f")
            assert not {singular.casefold(), plural.casefold()} & known, name
    random = Random(0)
    made_up = {new_word(random) for _ in range(500)}
    assert len(made_up) > 450 and not made_up & known
    assert len(unknown_words()) > 100


def test_unknown_words_are_said_to_be_unknown():
    random = Random(3)
    for _ in range(300):
        fact = unknown_fact(random)
        assert fact.topic in UNKNOWN_TOPICS
        for grammar in GRAMMARS.values():
            sample = question(fact, grammar, random)
            assert sample.suffix == grammar.unknown and not sample.names


def test_all_languages_answer_alike():
    """Each answer read back by its language's own dictionary."""
    random = Random(5)
    back = {}
    for code, grammar in GRAMMARS.items():
        labels = {grammar.forms(KIND(name)).label: name for name in KINDS}
        plurals = {said(grammar.forms(KIND(name)).plural): name for name in KINDS}
        names = labels | {
            f"{grammar.numbers[n]} {plural}": (n, name)
            for n in range(2, 7)
            for plural, name in plurals.items()
        }
        fixed = {grammar.yes: True, grammar.no: False, grammar.nothing: None}
        fixed |= {word: key for key, word in grammar.positions.items()}
        fixed |= {grammar.forms(Term("category", c)).label: c for c in grammar.categories}
        colors = {word: key for key, word in grammar.colors.items()}
        absent = {said(grammar.forms(KIND(name)).no): ("no", name) for name in KINDS}
        back[code] = (names, fixed, colors, absent)

    def read(code, fact, text):
        names, fixed, colors, absent = back[code]
        if fact.answer[0] == "text":
            return text
        if fact.answer[0] == "color":
            return colors[text]
        if fact.answer[0] in ("list", "kind") and text not in fixed:
            return [names[part] for part in text.split(", ")]
        return int(text) if text.isdigit() else fixed.get(text, absent.get(text))

    for _ in range(400):
        facts = choose_facts(SceneFacts(random_scene(random)), random, 5)
        for fact in facts:
            read_back = [
                read(code, fact, said(grammar.answer(fact))) for code, grammar in GRAMMARS.items()
            ]
            assert all(one == read_back[0] for one in read_back), (fact, read_back)


def test_mentions_are_where_names_end(many):
    for _, asked_about in many[:500]:
        for sample in asked_about:
            for text, found in ((sample.prefix, sample.names), (sample.suffix, sample.groups)):
                for mention in found:
                    start = text[: mention.end].casefold().replace("grey", "gray")
                    if mention.name == "background":
                        forms = [
                            said(grammar.forms(Term("background", "background")).the)
                            for grammar in GRAMMARS.values()
                        ]
                        forms = [form.split(" ", 1)[1] for form in forms]
                    else:
                        forms = [
                            said(form)
                            for grammar in GRAMMARS.values()
                            for term in (KIND(mention.name, mention.color), KIND(mention.name))
                            for form in vars(grammar.forms(term)).values()
                        ]
                        forms += [form.split(" ", 1)[-1] for form in forms]
                    ends = start.endswith(tuple(form.casefold() for form in forms))
                    sized = sample.prefix.lower().startswith("describe")
                    assert ends or sized, (sample, mention)


def test_captions_mention_every_group_in_order(many):
    for drawn, asked_about in many[:500]:
        for sample in asked_about:
            if sample.task == "caption":
                listed = [mention[1:] for mention in sample.groups]
                if "cap " in sample.prefix.lower():
                    clear = sorted(filter(is_clear, drawn.objects), key=lambda o: o.box[1])
                    expected = Counter(o.name for o in clear)
                    assert listed == [(name, "", n) for name, n in expected.items()]
                else:
                    assert listed == list(map(tuple, groups(drawn)))
                ends = [mention.end for mention in sample.groups]
                assert ends == sorted(ends) and len(set(ends)) == len(ends)


def test_prompts_vary(many):
    prompts = [sample.prefix for _, asked_about in many for sample in asked_about]
    asked = [prompt.split(" ", 2)[2] for prompt in prompts if prompt.startswith("answer en ")]
    assert any(text.isupper() for text in asked)
    assert any(text[0].isupper() and not text.isupper() for text in asked)
    assert any("colour" in text for text in asked) and any("color" in text for text in asked)
    assert any(text.endswith("?") for text in asked) and any(text[-1].isalpha() for text in asked)
    assert any("picture" in text for text in asked) and any("image" in text for text in asked)
    assert any(text.startswith("Detect ") for text in prompts)
    spanish = [text.split(" ", 2)[2] for text in prompts if text.startswith("answer es ")]
    assert {text[0] == "¿" for text in spanish} == {True, False}
    tasks = Counter(sample.task for _, asked_about in many for sample in asked_about)
    assert set(tasks) == {"caption", "ask", "read", "detect", "segment", "region", "question"}
    mean = sum(tasks.values()) / len(many)
    assert 7 < mean < 10


def test_yes_and_no_are_even(many):
    answers, per_word = Counter(), {}
    for _, asked_about in many:
        for sample in asked_about:
            if sample.prefix.startswith("answer en ") and sample.suffix in ("yes", "no"):
                words = plain(sample.prefix.removeprefix("answer en "))
                answers[sample.suffix] += 1
                sort = next(
                    (
                        w
                        for w in ("larger", "smaller", "left", "right", "above", "below", "text")
                        if w in words
                    ),
                    "presence",
                )
                per_word.setdefault(sort, Counter())[sample.suffix] += 1
    assert 0.45 < answers["yes"] / answers.total() < 0.55
    presence = per_word["presence"]
    assert 0.45 < presence["yes"] / presence.total() < 0.55


def test_a_colored_kind_is_as_often_there_as_not():
    """Whether there is a yellow banana is not to be guessed from the words."""
    random = Random(0)
    answers = {True: Counter(), False: Counter()}
    own = [kind for kind in KINDS.values() if kind.color]
    for _ in range(3000):
        kind = random.choice(own)
        facts = SceneFacts(scene(thing(kind.name, (0.2, 0.2, 0.7, 0.7), kind.color)))
        for fact in choose_facts(facts, random, 4):
            if fact.topic == "presence" and fact.terms[0].color:
                is_own = KINDS[fact.terms[0].name].color == fact.terms[0].color
                answers[is_own][fact.answer[1]] += 1
    assert 0.42 < answers[True][True] / answers[True].total() < 0.58


def test_region_captions():
    facts = SceneFacts(STREET)
    random = Random(1)
    found = [region(facts, GRAMMARS["en"], random) for _ in range(200)]
    answers = Counter(sample.suffix for sample in found if sample)
    assert set(answers) == {"a red car", "a dog", "a cat", "nothing"}
    for sample in filter(None, found):
        head, lang, locs = sample.prefix.split(" ")
        assert (head, lang) == ("caption", "en") and len(re.findall("<loc", locs)) == 4


def test_reading_is_in_order():
    rng = np.random.default_rng(0)
    read = {s.suffix for _ in range(30) for s in samples(STREET, rng) if s.task == "read"}
    assert read == {"STOP here"}
    asked = [s for _ in range(30) for s in samples(STREET, rng)]
    assert all(s.spelled == (s.suffix == "STOP here") for s in asked if s.task != "question")
    empty = {s.suffix for _ in range(60) for s in samples(scene(DOG), rng) if s.task == "read"}
    assert empty == {""}


def test_all_places_of_loc_are_used(many):
    found = set()
    for _, asked_about in many:
        for sample in asked_about:
            found |= set(re.findall(r"<loc(\d+)>", sample.suffix))
    assert len(found) > 950


def test_the_same_generator_gives_the_same_samples(many):
    drawn = many[3][0]
    first, again = (samples(drawn, np.random.default_rng(11)) for _ in range(2))
    assert first == again
    assert first != samples(drawn, np.random.default_rng(12))


def test_texts_hold_every_word_that_samples_use(many):
    known = {word.lower() for word in words()}
    for _, asked_about in many[:400]:
        for sample in asked_about:
            if sample.task == "read" or is_unknown(sample):
                continue
            for text in (sample.prefix, sample.suffix):
                text = re.sub("<[a-z0-9]+>", "", text.lower())
                text = text.replace("colour", "color").replace("grey", "gray")
                used = set(re.findall(r"[^\W\d_]+", text)) - known
                names = " ; ".join(prompt_names(sample)) if sample.task == "detect" else ""
                lines = {"stop", "hello", "café"}
                made_up = {w for w in used if sample.task in ("detect", "segment")}
                assert not used - lines - made_up, (used, names)
    assert MARK not in "".join(texts())
