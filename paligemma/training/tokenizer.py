"""Train the built-in tokenizer: BPE with byte fallback on the language of the drawn world.

The layout is Gemma's: spaces become "▁", "\\n" is a token of its own, and the table ends with 1024
`<loc>`, 128 `<seg>` and `<image>`. A word is one token, whatever mark stands behind it. Written
words are capitals, and neither capitals nor digits merge: the model reads them one by one.
"""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>")
ALPHABET = "".join(map(chr, range(33, 127))) + "▁"
MERGES = 600  # more than the words of this world need; training stops when nothing repeats


def train(texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of these texts (no capitals, no `<loc>`)."""
    trained = _dress(Tokenizer(BPE()))
    trained.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=len(ALPHABET) + MERGES,
            min_frequency=20,
            initial_alphabet=list(ALPHABET),
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in _model(trained)["merges"]]
    pieces = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *ALPHABET]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = _dress(Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)))
    tokenizer.add_special_tokens(list(CONTROL))
    extra = ["\n", *(f"<loc{n:04d}>" for n in range(1024)), *(f"<seg{n:03d}>" for n in range(128))]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in extra])
    tokenizer.add_special_tokens(["<image>"])
    return tokenizer


def _dress(tokenizer: Tokenizer) -> Tokenizer:
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


def _model(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())["model"]
