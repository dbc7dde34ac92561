"""French: two genders, colours behind the noun, and short words that lose their vowel."""

from dataclasses import dataclass

from paligemma.synthetic.phrases.grammar import MARK, Entry, Grammar, Noun

VOWELS = "aàâæeéèêëiîïoôœuùûü"
MUTE_H = ("hélicoptère", "herbe", "hôpital", "horloge", "hippopotame", "homme", "huître")

SHORT = {
    "assiette de spaghettis": "spaghettis",
    "cuvette": "toilettes",
    "barquette de frites": "frites",
    "bol de riz": "riz",
    "grappe de raisin": "raisin",
    "paire d'épées": "épées",
    "paire de ciseaux": "ciseaux",
    "paire de lunettes": "lunettes",
    "paire de lunettes de soleil": "lunettes de soleil",
    "paire de masques": "masques",
    "paire de skis": "skis",
    "pile de crêpes": "crêpes",
    "seau de popcorn": "popcorn",
    "tablette de chocolat": "chocolat",
    "tranche de bacon": "bacon",
    "verre de lait": "lait",
    "verre de vin": "vin",
    "épi de maïs": "maïs",
}


@dataclass(frozen=True)
class FrenchNoun(Noun):
    of: str  # du chien, of the dog
    of_plural: str  # de chiens, after "combien"
    it: str
    large: str
    small: str
    which: str


def entry(singular: str, plural: str) -> Entry:
    article, name = singular.split(" ", 1)
    return Entry(name, plural, "f" if article == "une" else "m", article, SHORT.get(name, name))


def noun(entry: Entry, color: str, size: str) -> FrenchNoun:
    gender = entry.gender
    singular = _phrase(entry.name, gender, color, size, is_plural=False)
    plural = _phrase(entry.plural, gender, color, size, is_plural=True)
    if _elides(singular):
        the, of = f"l'{singular}", f"de l'{singular}"
    else:
        the, of = (
            (f"la {singular}", f"de la {singular}")
            if gender == "f"
            else (f"le {singular}", f"du {singular}")
        )
    feminine = gender == "f"
    return FrenchNoun(
        label=singular if color or size else entry.short,
        plural=plural + MARK,
        a=f"{entry.article} {singular}{MARK}",
        the=the + MARK,
        no=f"pas {_de(singular)}{MARK}",
        of=of + MARK,
        of_plural=_de(plural) + MARK,
        it="elle" if feminine else "il",
        large="grande" if feminine else "grand",
        small="petite" if feminine else "petit",
        which="quelles" if feminine else "quels",
    )


def _phrase(name: str, gender: str, color: str, size: str, is_plural: bool) -> str:
    words = [SIZES[size][_form(gender, is_plural)]] if size else []
    words.append(name)
    if color:
        if name.startswith(("paire d", "paires d")):  # une paire de lunettes rouges
            gender, is_plural = ("f" if "lunettes" in name or "épées" in name else "m"), True
        words.append(ADJECTIVES[color][_form(gender, is_plural)])
    return " ".join(words)


def _form(gender: str, is_plural: bool) -> int:
    return 2 * is_plural + (gender == "f")


def _elides(words: str) -> bool:
    return words[0] in VOWELS or words.split(" ")[0].startswith(MUTE_H)


def _de(words: str) -> str:
    return f"d'{words}" if _elides(words) else f"de {words}"


def ground(color: str) -> str:
    return f"sur un fond {ADJECTIVES[color][0]}"


CATEGORIES = {
    "animal": ("un animal", "animaux"),
    "plant": ("une plante", "plantes"),
    "food": ("un aliment", "aliments", "nourriture"),
    "drink": ("une boisson", "boissons"),
    "vehicle": ("un véhicule", "véhicules"),
    "building": ("un bâtiment", "bâtiments"),
    "nature": ("un élément naturel", "éléments naturels", "nature"),
    "tool": ("un outil", "outils"),
    "instrument": ("un instrument", "instruments", "instruments de musique"),
    "clothing": ("un vêtement", "vêtements"),
    "sport": ("un article de sport", "articles de sport"),
    "household": ("un objet domestique", "objets domestiques"),
    "electronics": ("un appareil", "appareils"),
    "office": ("un article de bureau", "articles de bureau"),
    "toy": ("un jouet", "jouets"),
}
# masculine, feminine, and both in the plural
ADJECTIVES = {
    "red": ("rouge", "rouge", "rouges", "rouges"),
    "orange": ("orange", "orange", "orange", "orange"),
    "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
    "green": ("vert", "verte", "verts", "vertes"),
    "blue": ("bleu", "bleue", "bleus", "bleues"),
    "purple": ("violet", "violette", "violets", "violettes"),
    "pink": ("rose", "rose", "roses", "roses"),
    "brown": ("marron", "marron", "marron", "marron"),
    "black": ("noir", "noire", "noirs", "noires"),
    "white": ("blanc", "blanche", "blancs", "blanches"),
    "gray": ("gris", "grise", "gris", "grises"),
    "beige": ("beige", "beige", "beiges", "beiges"),
    "teal": ("turquoise", "turquoise", "turquoise", "turquoise"),
    "navy": ("bleu marine", "bleu marine", "bleu marine", "bleu marine"),
}
SIZES = {
    "large": ("grand", "grande", "grands", "grandes"),
    "small": ("petit", "petite", "petits", "petites"),
}
PLACES = {
    "top left": "en haut à gauche",
    "top": "en haut",
    "top right": "en haut à droite",
    "left": "à gauche",
    "middle": "au milieu",
    "right": "à droite",
    "bottom left": "en bas à gauche",
    "bottom": "en bas",
    "bottom right": "en bas à droite",
}
QUESTIONS = {
    "count": (
        "combien {0.of_plural} y a-t-il ?",
        "combien {0.of_plural} y a-t-il {here} ?",
        "combien y a-t-il {0.of_plural} ?",
        "combien {0.of_plural} vois-tu ?",
    ),
    "count_all": (
        "combien de choses y a-t-il ?",
        "combien de choses y a-t-il {here} ?",
        "combien d'objets y a-t-il ?",
        "combien d'objets y a-t-il {here} ?",
        "combien de choses vois-tu ?",
    ),
    "color": (
        "de quelle couleur est {0.the} ?",
        "quelle est la couleur {0.of} ?",
        "quelle couleur a {0.the} ?",
    ),
    "what_color": (
        "qu'est-ce qui est {color} ?",
        "qu'est-ce qui est {color} {here} ?",
        "quelle chose est de couleur {color} ?",
    ),
    "what_at": (
        "qu'y a-t-il {place} ?",
        "qu'y a-t-il {place} {here} ?",
        "qu'est-ce qu'il y a {place} ?",
        "que vois-tu {place} ?",
        "qu'est-ce qui est {place} ?",
    ),
    "category": (
        "quel genre de chose est {0.the} ?",
        "quelle sorte de chose est {0.the} ?",
        "quel type de chose est {0.the} ?",
    ),
    "category_at": (
        "quel genre de chose y a-t-il {place} ?",
        "quelle sorte de chose y a-t-il {place} ?",
    ),
    "where": (
        "où est {0.the} ?",
        "où est {0.the} {here} ?",
        "où se trouve {0.the} ?",
        "où vois-tu {0.the} ?",
    ),
    "larger_of": (
        "qu'est-ce qui est plus grand, {0.the} ou {1.the} ?",
        "quelle chose est plus grande, {0.the} ou {1.the} ?",
    ),
    "smaller_of": (
        "qu'est-ce qui est plus petit, {0.the} ou {1.the} ?",
        "quelle chose est plus petite, {0.the} ou {1.the} ?",
    ),
    "larger_than": (
        "{0.the} est-{0.it} plus {0.large} que {1.the} ?",
        "est-ce que {0.the} est plus {0.large} que {1.the} ?",
    ),
    "smaller_than": (
        "{0.the} est-{0.it} plus {0.small} que {1.the} ?",
        "est-ce que {0.the} est plus {0.small} que {1.the} ?",
    ),
    "largest": (
        "quelle est la plus grande chose ?",
        "quelle chose est la plus grande ?",
        "qu'est-ce qui est le plus grand ?",
    ),
    "smallest": (
        "quelle est la plus petite chose ?",
        "quelle chose est la plus petite ?",
        "qu'est-ce qui est le plus petit ?",
    ),
    "left_of": (
        "{0.the} est-{0.it} à gauche {1.of} ?",
        "est-ce que {0.the} est à gauche {1.of} ?",
    ),
    "right_of": (
        "{0.the} est-{0.it} à droite {1.of} ?",
        "est-ce que {0.the} est à droite {1.of} ?",
    ),
    "above": (
        "{0.the} est-{0.it} au-dessus {1.of} ?",
        "est-ce que {0.the} est au-dessus {1.of} ?",
    ),
    "below": (
        "{0.the} est-{0.it} au-dessous {1.of} ?",
        "est-ce que {0.the} est en dessous {1.of} ?",
    ),
    "presence": (
        "y a-t-il {0.a} ?",
        "y a-t-il {0.a} {here} ?",
        "est-ce qu'il y a {0.a} ?",
        "vois-tu {0.a} ?",
        "y a-t-il des {0.plural} ?",
    ),
    "any_text": (
        "y a-t-il un texte ?",
        "y a-t-il du texte {here} ?",
        "y a-t-il un mot {here} ?",
        "est-ce que quelque chose est écrit ?",
    ),
    "written": (
        "qu'est-ce qui est écrit ?",
        "qu'est-ce qui est écrit {here} ?",
        "que dit le texte ?",
        "quel est le texte ?",
        "lis le texte.",
    ),
    "what_all": (
        "qu'y a-t-il {here} ?",
        "que vois-tu ?",
        "que vois-tu {here} ?",
        "qu'est-ce que c'est ?",
        "qu'est-ce qu'il y a ?",
    ),
    "which": (
        "{0.which} {0.plural} y a-t-il ?",
        "{0.which} {0.plural} y a-t-il {here} ?",
        "{0.which} {0.plural} vois-tu ?",
    ),
}

FRENCH = Grammar(
    code="fr",
    entry=entry,
    noun=noun,
    categories=CATEGORIES,
    background="un fond",
    colors={color: forms[0] for color, forms in ADJECTIVES.items()},
    positions=PLACES,
    places=PLACES,
    questions=QUESTIONS,
    here=("sur l'image", "dans l'image", "sur cette image", "dans cette image", "sur la photo"),
    everything=("tout", "toutes les choses", "tous les objets"),
    numbers=("aucun", "un", "deux", "trois", "quatre", "cinq", "six"),
    yes="oui",
    no="non",
    nothing="rien",
    unknown="je ne connais pas ce mot",
    conjunction="et",
    ground=ground,
    placed="{0} est {place}",
    several="il y a {0}",
    the_background="le fond est {color}",
)
