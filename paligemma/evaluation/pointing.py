"""The pointing game: how often a map's peak lies in the box of the object that a token names.

    paligemma pointing --num-scenes 500 --out DIR
    paligemma pointing --coco instances.json --images DIR --out DIR

The correct answer is given to the model, and each token of it that names one object of the image
has a map in every view. `hit` is the share of peaks on a patch whose centre is in the object's box
(Zhang et al., arXiv 1608.00507, without the tolerance); `mass` is the share of a map in the box. An
even map is the chance level; the centre prior is a Gaussian in the middle of the image.
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
from paligemma.evaluation.pointing_questions import ObjectMention, PointingQuestion
from paligemma.interpret.explain import VIEWS
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply, Timings, Token

PRIOR_WIDTH = 0.25  # standard deviation of the centre prior, in image sides
BASELINES = ("chance", "centre")

MapKey = tuple[str, int | None, int | None]  # view, layer, head


@dataclass(frozen=True)
class PointingScore:
    """How well one map points at the objects that one type of tokens names.

    layer None: the whole map; head None: all heads; token_type "all": the mean over the types.
    hit and mass are 0..1; count is the number of maps.
    """

    view: str
    layer: int | None
    head: int | None
    token_type: str
    hit: float
    mass: float
    count: int


def measure_pointing(pg: PaliGemma, questions: Iterable[PointingQuestion]) -> list[PointingScore]:
    """The scores of every view, whole and by layer, of every head, and of the baselines.

    A view that the model cannot compute (gradients of a model that is too large) is left out.
    Raises ValueError if there is no question.
    """
    found: dict[tuple[MapKey, str], list[tuple[float, float]]] = defaultdict(list)
    views = tuple(VIEWS)
    prior = centre_prior(pg.config.vision_config.grid)

    def add(key: MapKey, heat: np.ndarray, mention: ObjectMention) -> None:
        found[key, mention.token_type].append(score_map(heat, mention.box))

    for question in tqdm(questions, desc="pointing", unit="question"):
        reply = correct_reply(pg, question.answer)
        try:
            explanation = pg.explain_reply(question.image, question.prompt, reply, views)
        except ValueError:
            if "gradient" not in views:
                raise
            views = tuple(view for view in views if view != "gradient")
            explanation = pg.explain_reply(question.image, question.prompt, reply, views)
        heads = explanation.heads
        for token, mention in _mentioned_tokens(reply, question.mentions):
            add(("chance", None, None), np.ones_like(prior), mention)
            add(("centre", None, None), prior, mention)
            for view in views:
                add((view, None, None), explanation.maps[view][token], mention)
                layers = explanation.layers[view]
                for layer in range(len(layers) if len(layers) > 1 else 0):
                    add((view, layer, None), layers[layer, token], mention)
            for layer, head in np.ndindex(heads.shape[:2]):
                add(("mean", layer, head), heads[layer, head, token], mention)
    if not found:
        raise ValueError("There is nothing to point at: no question names a single object.")
    return _average(found)


def correct_reply(pg: PaliGemma, answer: str) -> Reply:
    """The reply of a model that wrote `answer` with probability 1."""
    ids = pg.processor.encode_suffix(answer)[:-1]
    pieces = pg.processor.decode_pieces(ids)
    tokens = tuple(Token(i, piece, 0.0) for i, piece in zip(ids, pieces, strict=True))
    return Reply(answer, (), tokens, Timings(0.0, 0.0, 0.0, 0), "stop")


def _mentioned_tokens(
    reply: Reply, mentions: Iterable[ObjectMention]
) -> Iterator[tuple[int, ObjectMention]]:
    """The indices of the tokens that share characters with each mention."""
    end = 0
    for index, token in enumerate(reply.tokens):
        start, end = end, end + len(token.text)
        for mention in mentions:
            if max(start, mention.start) < min(end, mention.stop):
                yield index, mention


def score_map(heat: np.ndarray, box: Box) -> tuple[float, float]:
    """(hit, mass) of a map [grid, grid] for an object's box; equal peaks share the hit."""
    grid, (x1, y1, x2, y2) = len(heat), box
    edges = np.arange(grid + 1) / grid
    centres = (edges[1:] + edges[:-1]) / 2
    covered, inside = [], []
    for low, high in ((y1, y2), (x1, x2)):
        overlap = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        covered.append(np.clip(overlap, 0, None) * grid)
        hit = (low <= centres) & (centres <= high)
        hit[min(int((low + high) / 2 * grid), grid - 1)] = True  # a box between all centres
        inside.append(hit)
    hit = np.outer(*inside)[heat == heat.max()].mean()
    return float(hit), float((heat * np.outer(*covered)).sum() / max(heat.sum(), 1e-30))


def centre_prior(grid: int) -> np.ndarray:
    """A Gaussian in the middle of the image: [grid, grid]."""
    offset = (np.arange(grid) + 0.5) / grid - 0.5
    gaussian = np.exp(-((offset / PRIOR_WIDTH) ** 2) / 2)
    return np.outer(gaussian, gaussian)


def _average(
    found: dict[tuple[MapKey, str], list[tuple[float, float]]],
) -> list[PointingScore]:
    """The mean scores; after the token types of one map, "all" is the mean of their means."""
    by_map: dict[MapKey, list[PointingScore]] = defaultdict(list)
    for (key, token_type), pairs in found.items():
        hit, mass = np.mean(pairs, axis=0).tolist()
        by_map[key].append(PointingScore(*key, token_type, hit, mass, len(pairs)))
    scores: list[PointingScore] = []
    for key, types in by_map.items():
        hit = float(np.mean([score.hit for score in types]))
        mass = float(np.mean([score.mass for score in types]))
        count = sum(score.count for score in types)
        scores += [*types, PointingScore(*key, "all", hit, mass, count)]
    return scores


def best_view(scores: Iterable[PointingScore]) -> str:
    """The view whose whole map hits most often."""
    whole = [s for s in scores if s.token_type == "all" and s.layer is None and s.view in VIEWS]
    return max(whole, key=lambda score: score.hit).view


def format_pointing(scores: list[PointingScore]) -> str:
    """A Markdown table, a row a map: hits by token type, mean hit and mean mass."""
    types = list(dict.fromkeys(s.token_type for s in scores if s.token_type != "all"))
    by_map: dict[MapKey, dict[str, PointingScore]] = defaultdict(dict)
    for score in scores:
        by_map[score.view, score.layer, score.head][score.token_type] = score
    heads = [key for key in by_map if key[2] is not None]
    best_head = max(heads, key=lambda key: by_map[key]["all"].hit)
    counts = [f"{by_map['chance', None, None][name].count:,}" for name in types]
    lines = [
        "| view | layer | " + " | ".join(types) + " | mean hit | mean mass |",
        "|---|---|" + "---|" * (len(types) + 2),
        "| *maps* | | " + " | ".join(counts) + " | | |",
    ]
    for key in sorted(by_map, key=lambda key: (_order(key[0]), -1 if key[1] is None else key[1])):
        view, layer, head = key
        if head is not None and key != best_head:
            continue
        name = view if head is None else f"best of {len(heads)} heads, number {head}"
        hits = " | ".join(f"{by_map[key][one].hit:.3f}" for one in types)
        which = "" if view in BASELINES else "all" if layer is None else layer
        mean = by_map[key]["all"]
        lines.append(f"| {name} | {which} | {hits} | {mean.hit:.3f} | {mean.mass:.3f} |")
    return "\n".join(lines) + "\n"


def _order(view: str) -> int:
    return (*BASELINES, *VIEWS).index(view)


def plot_pointing(scores: list[PointingScore], path: Path) -> None:
    """Hit and mass by layer, a line a view; dashed: whole maps; dotted: the baselines."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    titles = {"hit": "peak in the box", "mass": "share of the map in the box"}
    means = [score for score in scores if score.token_type == "all" and score.head is None]
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for color, view in enumerate(v for v in VIEWS if any(s.view == v for s in means)):
            whole = next(s for s in means if s.view == view and s.layer is None)
            layers = [s for s in means if s.view == view and s.layer is not None]
            if len(layers) > 1:
                values = [getattr(score, name) for score in layers]
                numbers = [score.layer for score in layers]
                axes.plot(numbers, values, "o-", color=f"C{color}", label=view)
            label = None if len(layers) > 1 else view
            axes.axhline(getattr(whole, name), ls="--", lw=1, color=f"C{color}", label=label)
        for gray, view in zip(("0.2", "0.6"), BASELINES, strict=True):
            line = next(s for s in means if s.view == view)
            axes.axhline(getattr(line, name), ls=":", color=gray, label=view)
        axes.set(title=title, xlabel="decoder layer (dashed: the whole map)", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=120)


def save_pointing(scores: list[PointingScore], folder: Path) -> None:
    """Write pointing.md, pointing.json and pointing.png to `folder`, which exists."""
    (folder / "pointing.md").write_text(format_pointing(scores), "utf-8")
    values = json.dumps([asdict(score) for score in scores], indent=1)
    (folder / "pointing.json").write_text(values, "utf-8")
    plot_pointing(scores, folder / "pointing.png")
