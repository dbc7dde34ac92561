"""Model inputs and outputs: images to pixel values, prompts to token ids, token ids to text.

    processor = PaliGemmaProcessor(tokenizer, num_image_tokens=256, image_size=224)
    inputs = processor(text=["caption en"], images=["image.png"])

The sequence is `[<image> x P][BOS][prefix]["\\n"]`, and for training `[suffix][EOS]` after it. The
image tokens are built here and never searched for in the text of a prompt: one that spells
`<image>`, `<eos>` or `<loc0001>` has those characters in it, and not the tokens. One spelling is
part of the published format: exactly four `<locNNNN>` in a row are the location tokens of a region
(`caption en <locY1><locX1><locY2><locX2>`). Suffixes are answers, so their `<loc>` and `<seg>`
become tokens.

Pixels: RGB, resized straight to a square with PIL's bicubic filter (aspect not kept), x/127.5 - 1.

Sources: PaliGemma (arXiv 2407.07726) section 3; big_vision `pp/proj/paligemma`; the ids equal those
of transformers' `PaliGemmaProcessor`, and the pixels those of its PIL image processor.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from paligemma.config import PaliGemmaConfig
from paligemma.detections import (
    LOC_PATTERN,
    LOC_TOKENS,
    SEG_PATTERN,
    SEG_TOKENS,
    loc_to_value,
    snap_value,
    value_to_loc,
)
from paligemma.images import full_size, open_image
from paligemma.tokenizer_file import read_tokenizer, tokenizer_errors

IMAGE, PAD, EOS, BOS = "<image>", "<pad>", "<eos>", "<bos>"
MAX_PROMPT_TOKENS = 512  # text tokens of the longest stage of pretraining (arXiv 2407.07726, 3.2)
MAX_PROMPT_IMAGES = 16  # frames of a video; one image is what pretraining had
MAX_PROMPT_CHARACTERS = 64 * MAX_PROMPT_TOKENS  # refused before tokenising

_REGION = rf"(?<!{LOC_PATTERN})(?:{LOC_PATTERN}){{4}}(?!{LOC_PATTERN})"


@dataclass(frozen=True)
class Batch:
    """Model inputs, padded on the left without a suffix, on the right with one.

    The tensors are attributes and items: `model(**batch)` passes them all.
    """

    input_ids: torch.Tensor  # [B, T] int64
    attention_mask: torch.Tensor  # [B, T] int64, 0 on padding
    pixel_values: torch.Tensor  # [images, 3, R, R] float32 in -1..1; B of them, or more
    token_type_ids: torch.Tensor  # [B, T] int64, 1 on suffix and EOS
    labels: torch.Tensor | None = None  # [B, T] int64, -100 outside suffix and EOS
    image_sizes: tuple[tuple[int, int], ...] = ()  # (width, height) of each upright first image

    def keys(self) -> list[str]:
        return [name for name, value in vars(self).items() if isinstance(value, torch.Tensor)]

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)


class PaliGemmaProcessor:
    """Images and text <-> tensors, for one tokenizer and one resolution.

    `loc_grid` is that of a config: the locations of a region move to the nearest that the model was
    trained on.
    `tokenizer` is a `tokenizers.Tokenizer`, or one of transformers' fast tokenizers, which wrap
    one. Raises ValueError if it lacks a token that PaliGemma needs. The ids are looked up
    (`image_token_id`, `pad_token_id`, `bos_token_id`, `eos_token_id`); the tokenizer's own padding
    and truncation are switched off.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | Any,
        num_image_tokens: int,
        image_size: int,
        loc_grid: int | None = None,
    ) -> None:
        tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        needed = [IMAGE, PAD, BOS, EOS, "\n", *LOC_TOKENS, *SEG_TOKENS]
        ids: dict[str, Any] = {token: tokenizer.token_to_id(token) for token in needed}
        missing = [token for token in needed if ids[token] is None]
        if missing:
            some = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise ValueError(f"The tokenizer lacks {len(missing)} needed tokens: {some}.")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer: Tokenizer = tokenizer
        self.num_image_tokens = num_image_tokens
        self.image_size = image_size
        self.image_token_id: int = ids[IMAGE]
        self.pad_token_id: int = ids[PAD]
        self.bos_token_id: int = ids[BOS]
        self.eos_token_id: int = ids[EOS]
        self.loc_ids: list[int] = [ids[token] for token in LOC_TOKENS]
        self._trained_loc: dict[int, int] = {}  # each location's id to that of the nearest
        if loc_grid is not None:
            for loc, token in enumerate(LOC_TOKENS):
                nearest = value_to_loc(snap_value(loc_to_value(loc), loc_grid))
                self._trained_loc[ids[token]] = ids[LOC_TOKENS[nearest]]

        added = tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special and token.content.strip()}
        control = {IMAGE, PAD, BOS, EOS, "<unk>"} | special - {*LOC_TOKENS, *SEG_TOKENS}
        spellings = "|".join(map(re.escape, sorted(control)))
        self._control_ids = {tokenizer.token_to_id(token) for token in control}
        self._forbidden_ids = self._control_ids - {tokenizer.token_to_id("<unk>")}
        self._in_prompt = re.compile(rf"{_REGION}|(?={LOC_PATTERN}|{SEG_PATTERN}|{spellings})")
        self._in_suffix = re.compile(rf"(?={spellings})")

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike, config: PaliGemmaConfig
    ) -> "PaliGemmaProcessor":
        """Read `folder`/tokenizer.json and check that it belongs to `config`.

        Raises ValueError if the file is missing or damaged, lacks a token, has `<image>` at
        another id than `config.image_token_index`, or has more ids than the embedding table rows.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"There is no tokenizer.json in {str(folder)!r}.")
        tokenizer = read_tokenizer(path)
        vision, rows = config.vision_config, config.text_config.vocab_size
        processor = cls(tokenizer, vision.num_image_tokens, vision.image_size, config.loc_grid)
        if processor.image_token_id != config.image_token_index:
            raise ValueError(
                f"{str(path)!r} has {IMAGE} at id {processor.image_token_id}, but the config says "
                f"{config.image_token_index}."
            )
        vocabulary = tokenizer.get_vocab()
        highest = max(i for token, i in vocabulary.items() if token != IMAGE)  # never looked up
        if highest >= rows:
            raise ValueError(
                f"{str(path)!r} has ids up to {highest}, but the embedding table has {rows} rows."
            )
        return processor

    def __call__(
        self, text: Sequence[str], images: Sequence, suffix: Sequence[str] | None = None
    ) -> Batch:
        """Prompts and as many images (whatever `open_image` takes) -> `Batch`.

        A list of images is several for one prompt, as transformers' processor has it: their tokens
        come one after another. With `suffix`, one answer for each prompt, the batch is for
        training.
        Raises ValueError for lists of different lengths, and for a text or image that is refused.
        """
        _check_lists(text, images, suffix)
        each = [image if isinstance(image, list | tuple) else [image] for image in images]
        for number, several in enumerate(each):
            if not 0 < len(several) <= MAX_PROMPT_IMAGES:
                raise ValueError(
                    f"A prompt has 1 to {MAX_PROMPT_IMAGES} images; prompt {number} has "
                    f"{len(several)}."
                )
        pairs = zip(text, each, strict=True)
        prefixes = [self.encode_prompt(prompt, len(several)) for prompt, several in pairs]
        suffixes = [self.encode_suffix(each) for each in suffix or ()] or [[]] * len(text)
        pairs = list(zip(prefixes, suffixes, strict=True))
        length = max(len(p) + len(s) for p, s in pairs)

        def pad(ids: list[int], value: int) -> list[int]:
            padding = [value] * (length - len(ids))
            return padding + ids if suffix is None else ids + padding

        opened = [[open_image(image) for image in several] for several in each]
        input_ids = torch.tensor([pad(p + s, self.pad_token_id) for p, s in pairs])
        attention_mask = torch.tensor([pad([1] * len(p + s), 0) for p, s in pairs])
        token_type_ids = torch.tensor([pad([0] * len(p) + [1] * len(s), 0) for p, s in pairs])
        return Batch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=self._pixels([image for several in opened for image in several]),
            token_type_ids=token_type_ids,
            labels=None if suffix is None else input_ids.masked_fill(token_type_ids == 0, -100),
            image_sizes=tuple(full_size(several[0]) for several in opened),
        )

    def pixel_values(self, images: Sequence) -> torch.Tensor:
        """Images (whatever `open_image` takes) -> [B, 3, R, R] float32 in -1..1."""
        return self._pixels([open_image(image) for image in images])

    def _pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        square = (self.image_size, self.image_size)
        resized = [image.resize(square, Image.Resampling.BICUBIC) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
        return (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2).contiguous()

    def encode_prompt(self, text: str, images: int = 1) -> list[int]:
        """A prompt -> the ids `[<image> x P][BOS][text]["\\n"]`, P for each image; "" is one too.

        Raises ValueError for what is not a str, for NUL and lone surrogates, and for more than
        `MAX_PROMPT_TOKENS` tokens of text.
        """
        if isinstance(text, str) and len(text) > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"The prompt has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are "
                f"allowed, and at most {MAX_PROMPT_TOKENS} tokens."
            )
        ids = self._encode(text, "\n", self._in_prompt, "prompt")
        ids = [self._trained_loc.get(i, i) for i in ids]
        if len(ids) > MAX_PROMPT_TOKENS:
            raise ValueError(
                f"The prompt has {len(ids)} tokens; at most {MAX_PROMPT_TOKENS} are allowed."
            )
        image_ids = [self.image_token_id] * (self.num_image_tokens * images)
        return [*image_ids, self.bos_token_id, *ids]

    def prompt_texts(self, text: str) -> list[str]:
        """The text of each token of a prompt after the image tokens: BOS first, newline last."""
        ids = self.encode_prompt(text)[self.num_image_tokens :]
        tokens = (self.tokenizer.id_to_token(i) or "" for i in ids)
        return [token.replace("▁", " ") for token in tokens]

    def encode_suffix(self, text: str) -> list[int]:
        """An answer -> its ids and EOS; `<locNNNN>` and `<segNNN>` become their tokens."""
        return [*self._encode(text, "", self._in_suffix, "suffix"), self.eos_token_id]

    def _encode(self, text: str, end: str, control: re.Pattern[str], name: str) -> list[int]:
        """Encode in pieces, cut inside each spelling of a control token: so none is recognised."""
        if not isinstance(text, str):
            raise ValueError(f"A {name} is a str, not {_kind(text)}.")
        bad = re.search("[\0\ud800-\udfff]", text)
        if bad:
            raise ValueError(
                f"The {name} has the character U+{ord(bad[0]):04X} at {bad.start()}, "
                "which is not text."
            )
        text += end
        cuts = [match.start() + 1 for match in control.finditer(text) if not match[0]]
        pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        with tokenizer_errors(f"The tokenizer cannot encode this {name}"):
            encoded = [self.tokenizer.encode(piece, add_special_tokens=False) for piece in pieces]
        ids = [i for piece in encoded for i in piece.ids]
        if not self._forbidden_ids.isdisjoint(ids):  # a spelling that appears only once normalised
            raise ValueError(f"The {name} spells a control token of the tokenizer.")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text with its `<loc>` and `<seg>`, without control tokens."""
        return "".join(self.decode_pieces(ids))

    def decode_pieces(self, ids: Sequence[int]) -> list[str]:
        """Ids -> the text that each adds; joined they are `decode(ids)`, for every prefix of ids.

        The bytes of one character may be several tokens: it comes with the last of them, and the
        others (like control tokens) add "". The bytes of an incomplete character add nothing.
        """
        pieces, incomplete = [], []
        for i in ids:
            if i not in self._control_ids:
                incomplete.append(i)
            with tokenizer_errors("The tokenizer cannot decode the answer"):
                text = self.tokenizer.decode(incomplete, skip_special_tokens=False)
            if text.endswith("\ufffd"):
                text = ""
            else:
                incomplete = []
            pieces.append(text)
        return pieces


def processor_files(config: PaliGemmaConfig) -> dict[str, dict]:
    """What transformers' AutoProcessor reads besides tokenizer.json; not needed here."""
    side = config.vision_config.image_size
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "PaliGemmaProcessor",
            "pad_token": PAD,
            "eos_token": EOS,
            "bos_token": BOS,
            "unk_token": "<unk>",
            "extra_special_tokens": {"image_token": IMAGE},
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
        },
        "preprocessor_config.json": {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "PaliGemmaProcessor",
            "size": {"height": side, "width": side},
            "resample": 3,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_seq_length": config.vision_config.num_image_tokens,
        },
    }


def _check_lists(text: Sequence, images: Sequence, suffix: Sequence | None) -> None:
    """Raises ValueError unless there is one image, and one suffix if any, for each prompt."""
    for name, values in ("text", text), ("images", images), ("suffix", suffix):
        if values is not None and not isinstance(values, list | tuple):
            raise ValueError(f"{name} is a list with one entry a sequence, not {_kind(values)}.")
    count = len(text)
    if not count or len(images) != count or (suffix is not None and len(suffix) != count):
        suffixes = "" if suffix is None else f" and {len(suffix)} suffixes"
        raise ValueError(
            "A batch has one image for each prompt (and as many suffixes, if any), "
            f"not {count} prompts, {len(images)} images{suffixes}."
        )


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
