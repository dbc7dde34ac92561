"""Spanish: two genders, adjectives behind the noun, and feminine nouns that say "un" and "el"."""

from dataclasses import dataclass

from paligemma.synthetic.phrases.grammar import MARK, Entry, Grammar, Noun

SHORT = {
    "caja de palomitas": "palomitas",
    "caja de patatas fritas": "patatas fritas",
    "copa de vino": "vino",
    "cuenco de arroz": "arroz",
    "loncha de beicon": "beicon",
    "mazorca de maíz": "maíz",
    "par de auriculares": "auriculares",
    "par de espadas": "espadas",
    "par de esquís": "esquís",
    "par de gafas": "gafas",
    "par de gafas de sol": "gafas de sol",
    "par de máscaras": "máscaras",
    "par de tijeras": "tijeras",
    "par de vaqueros": "vaqueros",
    "plato de espaguetis": "espaguetis",
    "racimo de uvas": "uvas",
    "tableta de chocolate": "chocolate",
    "torre de tortitas": "tortitas",
    "vaso de leche": "leche",
}


@dataclass(frozen=True)
class SpanishNoun(Noun):
    of: str  # del perro, of the dog
    how_many: str  # cuántos perros
    small: str


def entry(singular: str, plural: str) -> Entry:
    article, name = singular.split(" ", 1)
    name, feminine = name.removesuffix(" f"), article == "una" or name.endswith(" f")
    return Entry(name, plural, "f" if feminine else "m", article, SHORT.get(name, name))


def noun(entry: Entry, color: str, size: str) -> SpanishNoun:
    gender = entry.gender
    singular = _phrase(entry.name, gender, color, size, is_plural=False)
    plural = _phrase(entry.plural, gender, color, size, is_plural=True)
    masculine = entry.article == "un"  # el águila
    return SpanishNoun(
        label=singular if color or size else entry.short,
        plural=plural + MARK,
        a=f"{entry.article} {singular}{MARK}",
        the=f"{'el' if masculine else 'la'} {singular}{MARK}",
        no=f"{'ningún' if masculine else 'ninguna'} {singular}{MARK}",
        of=f"{'del' if masculine else 'de la'} {singular}{MARK}",
        how_many=f"{'cuántas' if gender == 'f' else 'cuántos'} {plural}{MARK}",
        small=ADJECTIVES["small"][gender == "f"],
    )


def _phrase(name: str, gender: str, color: str, size: str, is_plural: bool) -> str:
    words = [name]
    if color:
        of_pair = name.startswith(("par de", "pares de"))  # un par de gafas rojas
        inner = ("f" if name.split()[2].endswith("as") else "m") if of_pair else gender
        words.append(ADJECTIVES[color][_form(inner, is_plural or of_pair)])
    if size:
        words.append(ADJECTIVES[size][_form(gender, is_plural)])
    return " ".join(words)


def _form(gender: str, is_plural: bool) -> int:
    return 2 * is_plural + (gender == "f")


def ground(color: str) -> str:
    return f"sobre un fondo {ADJECTIVES[color][0]}"


CATEGORIES = {
    "animal": ("un animal", "animales"),
    "plant": ("una planta", "plantas"),
    "food": ("un alimento", "alimentos", "comida"),
    "drink": ("una bebida", "bebidas"),
    "vehicle": ("un vehículo", "vehículos"),
    "building": ("una construcción", "construcciones"),
    "nature": ("un elemento natural", "elementos naturales", "naturaleza"),
    "tool": ("una herramienta", "herramientas"),
    "instrument": ("un instrumento", "instrumentos", "instrumentos musicales"),
    "clothing": ("una prenda", "prendas", "ropa"),
    "sport": ("un artículo deportivo", "artículos deportivos"),
    "household": ("un objeto doméstico", "objetos domésticos"),
    "electronics": ("un aparato", "aparatos"),
    "office": ("un artículo de oficina", "artículos de oficina"),
    "toy": ("un juguete", "juguetes"),
}
# masculine, feminine, and both in the plural
ADJECTIVES = {
    "red": ("rojo", "roja", "rojos", "rojas"),
    "orange": ("naranja", "naranja", "naranjas", "naranjas"),
    "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
    "green": ("verde", "verde", "verdes", "verdes"),
    "blue": ("azul", "azul", "azules", "azules"),
    "purple": ("morado", "morada", "morados", "moradas"),
    "pink": ("rosa", "rosa", "rosas", "rosas"),
    "brown": ("marrón", "marrón", "marrones", "marrones"),
    "black": ("negro", "negra", "negros", "negras"),
    "white": ("blanco", "blanca", "blancos", "blancas"),
    "gray": ("gris", "gris", "grises", "grises"),
    "beige": ("beige", "beige", "beige", "beige"),
    "teal": ("turquesa", "turquesa", "turquesas", "turquesas"),
    "navy": ("azul marino", "azul marino", "azul marino", "azul marino"),
    "large": ("grande", "grande", "grandes", "grandes"),
    "small": ("pequeño", "pequeña", "pequeños", "pequeñas"),
}
PLACES = {
    "top left": "arriba a la izquierda",
    "top": "arriba",
    "top right": "arriba a la derecha",
    "left": "a la izquierda",
    "middle": "en el centro",
    "right": "a la derecha",
    "bottom left": "abajo a la izquierda",
    "bottom": "abajo",
    "bottom right": "abajo a la derecha",
}
QUESTIONS = {
    "count": (
        "¿{0.how_many} hay?",
        "¿{0.how_many} hay {here}?",
        "¿{0.how_many} ves?",
        "¿{0.how_many} se ven {here}?",
    ),
    "count_all": (
        "¿cuántas cosas hay?",
        "¿cuántas cosas hay {here}?",
        "¿cuántos objetos hay?",
        "¿cuántos objetos hay {here}?",
        "¿cuántas cosas ves?",
    ),
    "color": (
        "¿de qué color es {0.the}?",
        "¿cuál es el color {0.of}?",
        "¿qué color tiene {0.the}?",
    ),
    "what_color": (
        "¿qué es {color}?",
        "¿qué hay de color {color}?",
        "¿qué hay de color {color} {here}?",
    ),
    "what_at": (
        "¿qué hay {place}?",
        "¿qué hay {place} {here}?",
        "¿qué ves {place}?",
        "¿qué está {place}?",
        "¿qué cosa hay {place}?",
    ),
    "category": ("¿qué tipo de cosa es {0.the}?", "¿qué clase de cosa es {0.the}?"),
    "category_at": ("¿qué tipo de cosa hay {place}?", "¿qué clase de cosa hay {place}?"),
    "where": (
        "¿dónde está {0.the}?",
        "¿dónde está {0.the} {here}?",
        "¿dónde ves {0.the}?",
        "¿dónde se encuentra {0.the}?",
    ),
    "larger_of": (
        "¿qué es más grande, {0.the} o {1.the}?",
        "¿qué cosa es más grande, {0.the} o {1.the}?",
    ),
    "smaller_of": (
        "¿qué es más pequeño, {0.the} o {1.the}?",
        "¿qué cosa es más pequeña, {0.the} o {1.the}?",
    ),
    "larger_than": (
        "¿es {0.the} más grande que {1.the}?",
        "¿{0.the} es más grande que {1.the}?",
    ),
    "smaller_than": (
        "¿es {0.the} más {0.small} que {1.the}?",
        "¿{0.the} es más {0.small} que {1.the}?",
    ),
    "largest": (
        "¿cuál es la cosa más grande?",
        "¿qué es lo más grande?",
        "¿qué cosa es la más grande?",
    ),
    "smallest": (
        "¿cuál es la cosa más pequeña?",
        "¿qué es lo más pequeño?",
        "¿qué cosa es la más pequeña?",
    ),
    "left_of": (
        "¿está {0.the} a la izquierda {1.of}?",
        "¿{0.the} está a la izquierda {1.of}?",
    ),
    "right_of": (
        "¿está {0.the} a la derecha {1.of}?",
        "¿{0.the} está a la derecha {1.of}?",
    ),
    "above": (
        "¿está {0.the} encima {1.of}?",
        "¿está {0.the} por encima {1.of}?",
        "¿{0.the} está encima {1.of}?",
    ),
    "below": (
        "¿está {0.the} debajo {1.of}?",
        "¿está {0.the} por debajo {1.of}?",
        "¿{0.the} está debajo {1.of}?",
    ),
    "presence": (
        "¿hay {0.a}?",
        "¿hay {0.a} {here}?",
        "¿ves {0.a}?",
        "¿se ve {0.a}?",
        "¿hay {0.plural}?",
    ),
    "any_text": (
        "¿hay texto?",
        "¿hay algún texto {here}?",
        "¿hay alguna palabra {here}?",
        "¿hay algo escrito?",
    ),
    "written": (
        "¿qué está escrito?",
        "¿qué está escrito {here}?",
        "¿qué dice el texto?",
        "¿cuál es el texto?",
        "lee el texto.",
    ),
    "what_all": (
        "¿qué hay {here}?",
        "¿qué ves?",
        "¿qué ves {here}?",
        "¿qué es esto?",
        "¿qué cosas hay?",
    ),
    "which": (
        "¿qué {0.plural} hay?",
        "¿qué {0.plural} hay {here}?",
        "¿qué {0.plural} ves?",
    ),
}

SPANISH = Grammar(
    code="es",
    entry=entry,
    noun=noun,
    categories=CATEGORIES,
    background="un fondo",
    colors={color: ADJECTIVES[color][0] for color in list(ADJECTIVES)[:-2]},
    positions=PLACES,
    places=PLACES,
    questions=QUESTIONS,
    here=("en la imagen", "en esta imagen", "en la foto", "en esta foto", "en el dibujo"),
    everything=("todo", "todas las cosas", "todos los objetos"),
    numbers=("ningún", "un", "dos", "tres", "cuatro", "cinco", "seis"),
    yes="sí",
    no="no",
    nothing="nada",
    unknown="no conozco esa palabra",
    conjunction="y",
    ground=ground,
    placed="{0} está {place}",
    several="hay {0}",
    the_background="el fondo es {color}",
)
