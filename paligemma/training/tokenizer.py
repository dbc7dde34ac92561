"""Train a tokenizer: BPE with byte fallback on the prompts and answers of a synthetic world.

The layout is Gemma's: spaces become "▁", "\\n" is a token of its own, and the table ends with 1024
`<loc>`, 128 `<seg>` and `<image>`. A word is one token, whatever mark stands behind it. Written
words are capitals, and neither capitals nor digits merge: the model reads them one by one.
"""

import json
from collections.abc import Iterable

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from paligemma.checkpoints.io import write_text
from paligemma.detections import LOC_TOKENS, SEG_TOKENS
from paligemma.synthetic.world import World
from paligemma.training.config import Run

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>")
ALPHABET = "".join(map(chr, range(33, 127))) + "▁"
MERGES = 600  # more than the words of a world need; training stops when no pair repeats


def write_tokenizer(run: Run) -> None:
    """Train on the scenes of a run, and write `output_dir`/tokenizer.json."""
    count = sum(given.scenes for given in run.scenes)
    trained = train_tokenizer(sentences(run.open_world(), count, run.seed))
    run.output_dir.mkdir(parents=True, exist_ok=True)
    path = run.output_dir / "tokenizer.json"
    write_text(path, trained.to_str(pretty=True))
    print(f"Wrote {path}: {trained.get_vocab_size()} tokens.")


def sentences(world: World, scenes: int, seed: int) -> list[str]:
    """Prompts and answers about `scenes` scenes, without `<loc>` and without capitals."""
    rng = np.random.default_rng(seed)
    samples = [one for number in range(scenes) for one in world.samples(world.scene(number), rng)]
    texts = [text for one in samples for text in (one.prefix, one.suffix)]
    return [text for text in texts if "<loc" not in text and text == text.lower()]


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of these texts (no capitals, no `<loc>`)."""
    trained = _with_layout(Tokenizer(BPE()))
    trained.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=len(ALPHABET) + MERGES,
            min_frequency=20,
            initial_alphabet=list(ALPHABET),
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in _bpe(trained)["merges"]]
    pieces = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *ALPHABET]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    model = BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = _with_layout(Tokenizer(model))
    tokenizer.add_special_tokens(list(CONTROL))
    extra = ["\n", *LOC_TOKENS, *SEG_TOKENS]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in extra])
    tokenizer.add_special_tokens(["<image>"])
    return tokenizer


def _with_layout(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[0-9?!.,]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _bpe(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())["model"]
