"""Train a tokenizer: BPE with byte fallback on the prompts and answers of a synthetic world.

The layout is Gemma's: spaces become "▁", "\\n" is a token of its own, and the table ends with 1024
`<loc>`, 128 `<seg>` and `<image>`. A word is one token, whatever mark stands behind it and whatever
short word before it ("l'"). Neither digits nor several capitals merge: the model reads them one by
one.
"""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from paligemma.checkpoints.io import write_text
from paligemma.detections import LOC_TOKENS, SEG_TOKENS
from paligemma.training.config import Run

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>")
ALPHABET = "".join(map(chr, range(33, 127))) + "▁"
MERGES = 9_000  # more than the words of a world need; training stops when no pair repeats


def write_tokenizer(run: Run) -> None:
    """Train on the scenes of a run, and write `output_dir`/tokenizer.json."""
    world = run.open_world()
    count = sum(given.scenes for given in run.scenes)
    trained = train_tokenizer(world.texts(count, run.seed), world.characters)
    run.output_dir.mkdir(parents=True, exist_ok=True)
    path = run.output_dir / "tokenizer.json"
    write_text(path, trained.to_str(pretty=True))
    print(f"Wrote {path}: {trained.get_vocab_size()} tokens.")


def train_tokenizer(texts: Iterable[str], characters: str = "") -> Tokenizer:
    """The tokenizer of these texts (no `<loc>`). Each of `characters` is a token at least."""
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
    used = sorted(piece for piece in trained.get_vocab() if len(piece) == 1)
    pieces = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *ALPHABET, *characters, *used]
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
            pre_tokenizers.Split(Regex(r"[0-9?!.,¿]"), "isolated"),
            pre_tokenizers.Split("'", "merged_with_previous"),
            pre_tokenizers.Split(Regex(r"(?<=\p{Lu})\p{Lu}|\p{Lu}(?=\p{Lu})"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _bpe(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())["model"]
