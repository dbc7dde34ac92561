"""Attention maps of an answer, one for each of its tokens, in each of the `VIEWS`.

    explanation = pg.explain("image.png", "detect cat")
    explanation.maps[DEFAULT_VIEW]  # [tokens, grid, grid]

A token is predicted at the position before it: its map is the attention of that query position.
Attention shows which patches the decoder read, not what it used of them; two views that disagree
are both true.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paligemma.interpret import views
from paligemma.interpret.capture import capture_attention, gradient_attention, word_similarity
from paligemma.interpret.views import AttentionWeights, Sink
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor
from paligemma.reply import Reply


@dataclass(frozen=True)
class View:
    """One way to summarise attention: the unit of its numbers, and what they mean."""

    unit: str
    description: str


VIEWS = {
    "middle": View(
        "of the token's attention",
        "The share of the token's attention that goes to each patch, in the third quarter of the "
        "layers.",
    ),
    "mean": View(
        "of the token's attention",
        "The share of the token's attention that goes to each patch: the mean over all layers and "
        "heads.",
    ),
    "rollout": View(
        "of the attention flow",
        "Attention rollout: the flow from each patch to the token through all layers, also by way "
        "of the prompt.",
    ),
    "relative": View(
        "times the neutral prompt's",
        "The token's attention to each patch, divided by that of an empty prompt.",
    ),
    "similarity": View(
        "cosine",
        "Cosine similarity of each patch and the token before any prompt is read; no attention is "
        "involved.",
    ),
    "gradient": View(
        "of the token's logit",
        "Attention times its gradient: how much each patch contributed to the token, to first "
        "order, also by way of the prompt.",
    ),
}
CHEAP_VIEWS = ("middle", "mean", "rollout", "relative", "similarity")  # without a backward pass
DEFAULT_VIEW = "middle"  # most of it is in the named object: docs/pointing.md
NEUTRAL_PROMPT = ""


@dataclass(frozen=True)
class Explanation:
    """An answer and its attention maps.

    All arrays are float32, and none is a part of a larger one: the weights of the prompt's
    positions, which may be most of them, are not held.

    prompt: the texts of the prompt's tokens, BOS first and the newline last
    heads [layers, heads, tokens, grid, grid]: the attention of every head alone
    between_tokens [positions, positions]: mean attention from each of the `positions` to each
    prompt_maps [prompt, grid, grid]: mean attention of each prompt token, all layers and heads
    layers: for each view [layers, tokens, grid, grid]; one layer where a view has no more
    maps: for each view [tokens, grid, grid]
    sinks: the attention sinks
    """

    reply: Reply
    prompt: tuple[str, ...]
    heads: np.ndarray
    between_tokens: np.ndarray
    prompt_maps: np.ndarray
    layers: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    sinks: tuple[Sink, ...]

    @property
    def num_bytes(self) -> int:
        """What the arrays take of the memory."""
        arrays = [self.heads, self.between_tokens, self.prompt_maps]
        return sum(array.nbytes for array in (*arrays, *self.layers.values(), *self.maps.values()))

    def rank_tokens(self, view: str, row: int, column: int) -> list[tuple[int, float]]:
        """(index, value) of every answer token at one patch of a view, the highest value first.

        Raises ValueError if the view was not computed or the patch is outside the grid.
        """
        if view not in self.maps:
            raise ValueError(f"{view!r} was not computed; there is {', '.join(self.maps)}.")
        maps = self.maps[view]
        grid = maps.shape[1]
        if not (0 <= row < grid and 0 <= column < grid):
            raise ValueError(f"Patches have rows and columns 0 to {grid - 1}, not {row}, {column}.")
        order = views.rank_tokens(maps.reshape(len(maps), -1), row * grid + column)
        return [(token, float(maps[token, row, column])) for token in order]

    def to_json(self) -> dict[str, Any]:
        """All but the weights themselves as plain values, numbers rounded to six decimals."""
        rounded = lambda values: np.round(values.astype(float), 6).tolist()
        return {
            **self.reply.to_json(),
            "prompt_tokens": list(self.prompt),
            "positions": list(self.positions),
            "maps": {name: rounded(maps) for name, maps in self.maps.items()},
            "layers": {name: rounded(maps) for name, maps in self.layers.items()},
            "prompt_maps": rounded(self.prompt_maps),
            "between_tokens": rounded(self.between_tokens),
            "sinks": [asdict(sink) for sink in self.sinks],
        }

    @property
    def positions(self) -> tuple[str, ...]:
        """The texts of the prompt's tokens, then of the answer tokens that were an input."""
        answer = tuple(token.text for token in self.reply.tokens)
        return (self.prompt + answer)[: len(self.between_tokens)]


def query_slice(prompt: int, tokens: int) -> slice:
    """The text positions at which an answer's tokens are predicted, after `prompt` positions."""
    return slice(prompt - 1, prompt - 1 + tokens)


@dataclass(frozen=True)
class Explainer:
    """Explains answers of `model` about one image and prompt.

    `features` [1, P, D] are the image's, the connector's output.
    """

    model: PaliGemmaForConditionalGeneration
    processor: PaliGemmaProcessor
    features: Tensor
    prompt: str

    def attention(self, reply: Reply) -> AttentionWeights:
        """The attention weights of the prompt and a given answer, in one forward pass."""
        ids, types = self._sequence(reply)
        with torch.inference_mode(), capture_attention(self.model) as maps:
            self.model.forward_features(ids, self.features, token_type_ids=types)
        return maps[0]

    def explain(
        self,
        reply: Reply,
        attention: AttentionWeights,
        names: Sequence[str],
        check: Callable[[], object] = lambda: None,
    ) -> Explanation:
        """`attention` in each of the views `names`.

        `check` is called now and then in a long computation, which ends with what it raises. Raises
        ValueError for an unknown view.
        """
        if unknown := [name for name in names if name not in VIEWS]:
            raise ValueError(f"{unknown[0]!r} is no view; choose {', '.join(VIEWS)}.")
        prompt = self.processor.prompt_texts(self.prompt)
        queries = query_slice(len(prompt), len(reply.tokens))
        means = views.mean_attention(attention)
        layers = {name: self._layers(name, reply, attention, queries, check) for name in names}
        maps = {name: _combine_layers(name, values) for name, values in layers.items()}
        if "relative" in names:
            maps["relative"] = views.relative(means[queries], self.neutral.mean(0))
        grid = self.model.config.vision_config.grid
        square = lambda values: values.reshape(*values.shape[:-1], grid, grid).copy()
        return Explanation(
            reply=reply,
            prompt=tuple(prompt),
            heads=square(attention.image[:, :, queries]),
            between_tokens=views.between_tokens(attention),
            prompt_maps=square(means[: len(prompt)]),
            layers={name: square(values) for name, values in layers.items()},
            maps={name: square(values) for name, values in maps.items()},
            sinks=tuple(views.sinks(means)),
        )

    def similarity(self, word: str) -> np.ndarray:
        """Cosine similarity of each patch and `word`: [grid, grid]. Raises ValueError for ""."""
        ids = self.processor.encode_suffix(f" {word.strip()}")[:-1]
        if not word.strip() or not ids:
            raise ValueError("There is no word to compare the patches with.")
        grid = self.model.config.vision_config.grid
        return word_similarity(self.model, self.features[0], ids).numpy().reshape(grid, grid)

    def _layers(
        self,
        name: str,
        reply: Reply,
        attention: AttentionWeights,
        queries: slice,
        check: Callable[[], object],
    ) -> np.ndarray:
        """One view of an answer's T tokens, for each layer: [L, T, P]."""
        match name:
            case "middle":
                return views.middle(attention)[None, queries]
            case "mean":
                return views.layer_means(attention)[:, queries]
            case "rollout":
                return views.rollout(attention)[:, queries]
            case "relative":
                means = views.layer_means(attention)[:, queries]
                return views.relative(means, self.neutral[:, None])
            case "similarity":
                cosines = [
                    word_similarity(self.model, self.features[0], [token.id]).numpy()
                    for token in reply.tokens
                ]
                return np.reshape(cosines, (1, len(cosines), self.features.shape[1])).clip(0)
        ids, types = self._sequence(reply)
        positions = range(ids.shape[1] - len(reply.tokens), ids.shape[1])
        return gradient_attention(self.model, ids, self.features, types, positions, check).numpy()

    @cached_property
    def neutral(self) -> np.ndarray:
        """Attention of the neutral prompt's last position, the mean over heads: [L, P]."""
        prompt = self.processor.encode_prompt(NEUTRAL_PROMPT)
        ids = torch.tensor([prompt], device=self.features.device)
        with torch.inference_mode(), capture_attention(self.model) as maps:
            self.model.forward_features(ids, self.features)
        return views.layer_means(maps[0])[:, -1]

    def _sequence(self, reply: Reply) -> tuple[Tensor, Tensor]:
        """Token ids and token type ids [1, T] of image, prompt and answer."""
        prompt = self.processor.encode_prompt(self.prompt)
        answer = [token.id for token in reply.tokens]
        ids = torch.tensor([prompt + answer], device=self.features.device)
        types = torch.tensor([[0] * len(prompt) + [1] * len(answer)], device=ids.device)
        return ids, types


def _combine_layers(name: str, layers: np.ndarray) -> np.ndarray:
    """One map [T, P] of a view's layers [L, T, P]: the last where paths add up, else the mean."""
    return layers[-1] if name in ("rollout", "gradient") else layers.mean(0)
