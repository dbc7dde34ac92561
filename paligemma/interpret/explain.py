"""Where the decoder looked as it wrote an answer, seen in each of the ways that `VIEWS` names.

    explanation = pg.explain("picture.png", "detect cat")
    explanation.maps[DEFAULT_VIEW]  # [tokens, grid, grid]

A token was written by the column before it: its map is what that column looked at. Attention says
where the decoder read, not what it made of it; two views that disagree are both true.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

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
    """One way to look at attention: what its numbers are, and what they say."""

    unit: str
    says: str


VIEWS = {
    "middle": View(
        "of the token's attention",
        "How much of the token's attention each patch got in the third quarter of the layers.",
    ),
    "mean": View(
        "of the token's attention",
        "How much of the token's attention each patch got: the mean of all layers and heads.",
    ),
    "rollout": View(
        "of what reached the token",
        "What reached the token from each patch through all layers, also by way of the prompt.",
    ),
    "relative": View(
        "times the neutral prompt's",
        "How many times more the token looked at each patch than a prompt that asks nothing does.",
    ),
    "similarity": View(
        "cosine",
        "How alike each patch is to the token before any prompt is read; no attention at all.",
    ),
    "gradient": View(
        "of the token's logit",
        "What looking at each patch did for the token, to first order, also by way of the prompt.",
    ),
}
CHEAP_VIEWS = ("middle", "mean", "rollout", "relative", "similarity")  # without a backward pass
DEFAULT_VIEW = "middle"  # looks in the right place most often: docs/pointing.md
NEUTRAL = ""  # the prompt that asks nothing


@dataclass(frozen=True)
class Explanation:
    """An answer and where the decoder looked.

    `prompt` holds the texts of the prompt's columns (BOS first, the newline last). `attention` are
    the weights themselves: its columns are the prompt's, then one for each of the answer's tokens
    that was read again. `layers` has for each view [layers, tokens, grid, grid] (one layer only
    where a view knows none), `maps` [tokens, grid, grid]. `sinks` draw every token.
    """

    reply: Reply
    prompt: tuple[str, ...]
    attention: AttentionWeights
    layers: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    sinks: tuple[Sink, ...]

    @property
    def heads(self) -> np.ndarray:
        """Every head alone: [layers, heads, tokens, grid, grid]."""
        image = self.attention.image[:, :, wrote(len(self.prompt), len(self.reply.tokens))]
        side = round(image.shape[-1] ** 0.5)
        return image.reshape(*image.shape[:-1], side, side)

    @property
    def between_tokens(self) -> np.ndarray:
        """What each of `columns` made of each, all layers and heads: [columns, columns]."""
        return views.between_tokens(self.attention)

    def lookers(self, view: str, row: int, column: int) -> list[tuple[int, float]]:
        """The reverse: (token, its value) of all tokens at one patch of a view, most first.

        ValueError for a view that was not asked for and for a patch outside the grid.
        """
        if view not in self.maps:
            raise ValueError(f"{view!r} was not asked for; there is {', '.join(self.maps)}.")
        maps = self.maps[view]
        grid = maps.shape[1]
        if not (0 <= row < grid and 0 <= column < grid):
            raise ValueError(f"Patches have rows and columns 0 to {grid - 1}, not {row}, {column}.")
        order = views.lookers(maps.reshape(len(maps), -1), row * grid + column)
        return [(token, float(maps[token, row, column])) for token in order]

    def values(self) -> dict:
        """All but the weights themselves, as JSON has it: lists of numbers to six decimals."""
        listed = lambda values: np.round(values.astype(float), 6).tolist()
        return {
            **asdict(self.reply),
            "prompt": list(self.prompt),
            "columns": list(self.columns),
            "maps": {name: listed(maps) for name, maps in self.maps.items()},
            "layers": {name: listed(maps) for name, maps in self.layers.items()},
            "prompt_map": listed(self.prompt_map),
            "between_tokens": listed(self.between_tokens),
            "sinks": [asdict(sink) for sink in self.sinks],
        }

    @property
    def prompt_map(self) -> np.ndarray:
        """What each column of the prompt looked at, all layers and heads: [prompt, grid, grid]."""
        seen = views.mean(self.attention)[: len(self.prompt)]
        side = round(seen.shape[-1] ** 0.5)
        return seen.reshape(-1, side, side)

    @property
    def columns(self) -> tuple[str, ...]:
        """The text of each column of `attention`, in order."""
        answer = tuple(token.text for token in self.reply.tokens)
        return (self.prompt + answer)[: self.attention.text.shape[-1]]


def wrote(prompt: int, tokens: int) -> slice:
    """The text columns that wrote an answer's tokens, after a prompt of so many columns."""
    return slice(prompt - 1, prompt - 1 + tokens)


@dataclass(frozen=True)
class Explainer:
    """One picture [1, P, D], out of the connector, and one prompt, before a model."""

    model: PaliGemmaForConditionalGeneration
    processor: PaliGemmaProcessor
    features: Tensor
    prompt: str

    def attention(self, reply: Reply) -> AttentionWeights:
        """What the columns of the prompt and of a given answer look at, in one pass."""
        ids, types = self._sequence(reply)
        with torch.inference_mode(), capture_attention(self.model) as maps:
            self.model.forward_features(ids, self.features, token_type_ids=types)
        return maps[0]

    def explain(
        self, reply: Reply, attention: AttentionWeights, names: Sequence[str]
    ) -> Explanation:
        """`attention` seen in each of the views `names`. ValueError for one that there is not."""
        if unknown := [name for name in names if name not in VIEWS]:
            raise ValueError(f"{unknown[0]!r} is no view; choose {', '.join(VIEWS)}.")
        prompt = self._prompt_ids()
        rows = wrote(len(prompt), len(reply.tokens))
        layers = {name: self._layers(name, reply, attention, rows) for name in names}
        maps = {name: _whole(name, values) for name, values in layers.items()}
        if "relative" in names:
            maps["relative"] = views.relative(views.mean(attention)[rows], self.neutral.mean(0))
        grid = self.model.config.vision_config.grid
        texts = [self.processor.tokenizer.id_to_token(i).replace("▁", " ") for i in prompt]
        return Explanation(
            reply=reply,
            prompt=tuple(texts),
            attention=attention,
            layers={name: v.reshape(*v.shape[:2], grid, grid) for name, v in layers.items()},
            maps={name: v.reshape(-1, grid, grid) for name, v in maps.items()},
            sinks=tuple(views.sinks(views.mean(attention))),
        )

    def similarity(self, word: str) -> np.ndarray:
        """[grid, grid]: how alike each patch is to `word`. ValueError for an empty one."""
        ids = self.processor.encode_suffix(f" {word.strip()}")[:-1]
        if not word.strip() or not ids:
            raise ValueError("There is no word to compare the patches with.")
        grid = self.model.config.vision_config.grid
        return word_similarity(self.model, self.features[0], ids).numpy().reshape(grid, grid)

    def _layers(
        self, name: str, reply: Reply, attention: AttentionWeights, rows: slice
    ) -> np.ndarray:
        """One view of an answer's tokens, for each layer: [L, T, P]."""
        match name:
            case "middle":
                return views.middle(attention)[None, rows]
            case "mean":
                return views.layer_means(attention)[:, rows]
            case "rollout":
                return views.rollout(attention)[:, rows]
            case "relative":
                return views.relative(views.layer_means(attention)[:, rows], self.neutral[:, None])
            case "similarity":
                ids = [[token.id] for token in reply.tokens]
                alike = [word_similarity(self.model, self.features[0], one).numpy() for one in ids]
                return np.reshape(alike, (1, len(ids), self.features.shape[1])).clip(0)
        ids, types = self._sequence(reply)
        columns = range(ids.shape[1] - len(reply.tokens), ids.shape[1])
        return gradient_attention(self.model, ids, self.features, types, columns).numpy()

    @cached_property
    def neutral(self) -> np.ndarray:
        """[L, P]: what the last column of the neutral prompt looks at, the mean of its heads."""
        ids = torch.tensor([self.processor.encode_prompt(NEUTRAL)], device=self.features.device)
        with torch.inference_mode(), capture_attention(self.model) as maps:
            self.model.forward_features(ids, self.features)
        return views.layer_means(maps[0])[:, -1]

    def _sequence(self, reply: Reply) -> tuple[Tensor, Tensor]:
        """Ids and types [1, T] of picture, prompt and answer."""
        prompt = self.processor.encode_prompt(self.prompt)
        answer = [token.id for token in reply.tokens]
        ids = torch.tensor([prompt + answer], device=self.features.device)
        types = torch.tensor([[0] * len(prompt) + [1] * len(answer)], device=ids.device)
        return ids, types

    def _prompt_ids(self) -> list[int]:
        """The ids of the prompt's text columns."""
        return self.processor.encode_prompt(self.prompt)[self.features.shape[1] :]


def _whole(name: str, layers: np.ndarray) -> np.ndarray:
    """One map [T, P] of a view's layers [L, T, P]: what follows paths ends with the last one."""
    return layers[-1] if name in ("rollout", "gradient") else layers.mean(0)
