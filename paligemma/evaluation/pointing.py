"""Does it look in the right place? How often a map's peak falls in the box of the object it names.

    python -m paligemma pointing --scenes 500 --out DIR
    python -m paligemma pointing --coco instances.json --images DIR --out DIR

The true answer is read again, and each token in it that names one object of the picture gives a
map in every view. `hit`: the share of peaks whose patch has its centre in the object's box (the
pointing game, Zhang et al., arXiv 1608.00507, without its tolerance). `mass`: the share of a map in
the box. An even map is what chance gives; a centre prior is a bell over the middle of a picture.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from paligemma.detections import Box
from paligemma.evaluation.named import Named, Question
from paligemma.interpret.explain import VIEWS
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply, Timings, Token

PRIOR_WIDTH = 0.25  # of the picture's side: the deviation of the centre prior
BASELINES = ("chance", "centre")


@dataclass(frozen=True)
class Score:
    """How right one view is about one sort of tokens; "all" is the mean over the sorts.

    `layer` None is the whole map, `head` None all heads. `hit` and `mass` 0..1; `count` maps.
    """

    view: str
    layer: int | None
    head: int | None
    tokens: str
    hit: float
    mass: float
    count: int


def measure(pg: PaliGemma, questions: Iterable[Question]) -> list[Score]:
    """Every view, whole and layer by layer, every head, and the baselines.

    A view that the model cannot give (gradients of one too large) is left out. ValueError where
    there is no question at all.
    """
    found: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
    views = tuple(VIEWS)
    prior = centre_prior(pg.config.vision_config.grid)

    def note(view: str, layer: int | None, head: int | None, heat: np.ndarray, of: Named) -> None:
        found[view, layer, head, of.tokens].append(score(heat, of.box))

    for question in tqdm(questions, desc="pointing", unit="question"):
        reply = given(pg, question.answer)
        try:
            seen = pg.explain_reply(question.image, question.prompt, reply, views)
        except ValueError:
            if "gradient" not in views:
                raise
            views = tuple(view for view in views if view != "gradient")
            seen = pg.explain_reply(question.image, question.prompt, reply, views)
        heads = seen.heads
        for number, named in _tokens(reply, question.named):
            note("chance", None, None, np.ones_like(prior), named)
            note("centre", None, None, prior, named)
            for view in views:
                note(view, None, None, seen.maps[view][number], named)
                layers = seen.layers[view]
                for layer in range(len(layers) if len(layers) > 1 else 0):
                    note(view, layer, None, layers[layer, number], named)
            for layer, head in np.ndindex(heads.shape[:2]):
                note("mean", layer, head, heads[layer, head, number], named)
    if not found:
        raise ValueError("There is nothing to point at: no question names one object alone.")
    return _summed(found)


def given(pg: PaliGemma, answer: str) -> Reply:
    """An answer as if the model had written it, sure of every token."""
    ids = pg.processor.encode_suffix(answer)[:-1]
    pieces = pg.processor.decode_pieces(ids)
    tokens = tuple(Token(i, piece, 0.0) for i, piece in zip(ids, pieces, strict=True))
    return Reply(answer, (), tokens, Timings(0.0, 0.0, 0.0, 0), finished=True)


def _tokens(reply: Reply, named: Iterable[Named]) -> Iterator[tuple[int, Named]]:
    """The numbers of the tokens that touch each name."""
    end = 0
    for number, token in enumerate(reply.tokens):
        start, end = end, end + len(token.text)
        yield from ((number, one) for one in named if max(start, one.start) < min(end, one.stop))


def score(heat: np.ndarray, box: Box) -> tuple[float, float]:
    """(hit, mass) of a map [g, g] and the box that it should look at; equal peaks share the hit."""
    grid, (x1, y1, x2, y2) = len(heat), box
    edges = np.arange(grid + 1) / grid
    middle = (edges[1:] + edges[:-1]) / 2
    covered, centred = [], []
    for low, high in ((y1, y2), (x1, x2)):
        both = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        covered.append(np.clip(both, 0, None) * grid)
        inside = (low <= middle) & (middle <= high)
        inside[min(int((low + high) / 2 * grid), grid - 1)] = True  # a box between all centres
        centred.append(inside)
    hit = np.outer(*centred)[heat == heat.max()].mean()
    return float(hit), float((heat * np.outer(*covered)).sum() / max(heat.sum(), 1e-30))


def centre_prior(grid: int) -> np.ndarray:
    """A bell over the middle of the picture: [grid, grid]."""
    middle = (np.arange(grid) + 0.5) / grid - 0.5
    bell = np.exp(-((middle / PRIOR_WIDTH) ** 2) / 2)
    return np.outer(bell, bell)


def _summed(found: dict[tuple, list[tuple[float, float]]]) -> list[Score]:
    """Means of what was found; behind the sorts of tokens of one map, "all", their own mean."""
    scores, maps = [], defaultdict(list)
    for (*which, tokens), pairs in found.items():
        hit, mass = np.mean(pairs, axis=0).tolist()
        maps[tuple(which)].append(Score(*which, tokens, hit, mass, len(pairs)))
    for which, rows in maps.items():
        hit, mass = (float(np.mean([getattr(r, of) for r in rows])) for of in ("hit", "mass"))
        scores += [*rows, Score(*which, "all", hit, mass, sum(row.count for row in rows))]
    return scores


def winner(scores: Iterable[Score]) -> str:
    """The view whose whole map hits most often."""
    whole = [s for s in scores if s.tokens == "all" and s.layer is None and s.view in VIEWS]
    return max(whole, key=lambda s: s.hit).view


def table(scores: list[Score]) -> str:
    """Markdown: hits by sort of tokens and the mass in the box, a row a map."""
    sorts = list(dict.fromkeys(s.tokens for s in scores if s.tokens != "all"))
    by_map = defaultdict(dict)
    for s in scores:
        by_map[s.view, s.layer, s.head][s.tokens] = s
    heads = [key for key in by_map if key[2] is not None]
    best = max(heads, key=lambda key: by_map[key]["all"].hit)
    counts = [f"{by_map['chance', None, None][of].count:,}" for of in sorts]
    lines = [
        "| view | layer | " + " | ".join(sorts) + " | mean hit | mean mass |",
        "|---|---|" + "---|" * (len(sorts) + 2),
        "| *maps* | | " + " | ".join(counts) + " | | |",
    ]
    for key in sorted(by_map, key=lambda key: (_place(key[0]), -1 if key[1] is None else key[1])):
        if key[2] is not None and key != best:
            continue
        view, layer, head = key
        name = view if head is None else f"best of {len(heads)} heads, number {head}"
        hits = " | ".join(f"{by_map[key][of].hit:.3f}" for of in sorts)
        where = "all" if layer is None else layer
        where = "" if view in BASELINES else where
        whole = by_map[key]["all"]
        lines.append(f"| {name} | {where} | {hits} | {whole.hit:.3f} | {whole.mass:.3f} |")
    return "\n".join(lines) + "\n"


def _place(view: str) -> int:
    return (*BASELINES, *VIEWS).index(view)


def plot(scores: list[Score], path: Path) -> None:
    """Hits and mass layer by layer, a line a view; dashed: whole maps; dotted: the baselines."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, of in zip(figure.subplots(1, 2), ("hit", "mass"), strict=True):
        rows = [s for s in scores if s.tokens == "all" and s.head is None]
        for color, view in enumerate(v for v in VIEWS if any(s.view == v for s in rows)):
            whole = next(s for s in rows if s.view == view and s.layer is None)
            layers = [s for s in rows if s.view == view and s.layer is not None]
            numbers, values = [s.layer for s in layers], [getattr(s, of) for s in layers]
            if len(layers) > 1:
                axes.plot(numbers, values, "o-", color=f"C{color}", label=view)
            label = None if len(layers) > 1 else view
            axes.axhline(getattr(whole, of), ls="--", lw=1, color=f"C{color}", label=label)
        for gray, view in zip(("0.2", "0.6"), BASELINES, strict=True):
            line = next(s for s in rows if s.view == view)
            axes.axhline(getattr(line, of), ls=":", color=gray, label=view)
        title = {"hit": "peak in the box", "mass": "share of the map in the box"}[of]
        axes.set(title=title, xlabel="decoder layer (dashed: the whole map)", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=120)


def write(scores: list[Score], folder: Path) -> None:
    """pointing.md, pointing.json and pointing.png in `folder`, which is there."""
    (folder / "pointing.md").write_text(table(scores), "utf-8")
    rows = json.dumps([asdict(s) for s in scores], indent=1)
    (folder / "pointing.json").write_text(rows, "utf-8")
    plot(scores, folder / "pointing.png")
