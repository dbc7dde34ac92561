"""Damaged data files by the thousand: JSON lines and COCO instances, made from a seed.

    python tests/helpers/fuzz_data.py --records 100000

Every record must be read, or be named as invalid; anything else but a ValueError ends the run.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from paligemma.models.mask_codec import MaskCodec
from paligemma.training.sources import CocoSource, InvalidSample, JsonLines, Source

SIZE = (120, 80)
FILE_RECORDS = 500  # of one file, so that a broken file hides few others
VALUES = [
    *(None, True, False, 0, -1, 7, 1e308, -1e308, 2**63, 10**400, 0.5, "", " ", "7", "null"),
    *("a.jpg", "../a.jpg", "/etc/passwd", "a\0b", "a.jpg/", "\ud800", "é" * 300, "x" * 5000),
    *([], {}, [[]], [{}], [1], [[1, 2]], {"a": []}, [None] * 4, [1, 2, 3, 4], [0.0] * 8),
]
PIECES = [
    *("<loc0000>", "<loc1023>", "<loc0512>", "<loc1024>", "<loc12>", "<loc", "<loc0010>" * 4),
    *("<seg000>", "<seg127>", "<seg128>", "<seg1>", " ; ", " cat", ";", "<eos>", "<image>", "\n"),
]
SEGMENTATIONS = [
    [[20, 10, 60, 10, 60, 50, 20, 50]],
    [20, 10, 60, 10, 60, 50, 20, 50],
    [[[20, 10], [60, 10]]],
    [[1, 2, 3, 4]],
    [[-164.1, -221.8, 2e8, 3.5e8, 225.9, 236.5]],
    [[float(n % 90) for n in range(4000)]],
    {"size": [80, 120], "counts": [0, 9600]},
    {"size": [80, 120], "counts": "PPYo1"},
    {"size": [10**6, 10**6], "counts": [10**12]},
    {"size": [80, 120], "counts": [-5, 9605]},
    {"size": [80, 120]},
    "none",
]


def value(rng: random.Random, usual: object) -> object:
    """Mostly what is usual."""
    return rng.choice(VALUES) if rng.random() < 0.15 else usual


def without_some(rng: random.Random, record: dict) -> dict:
    return {name: one for name, one in record.items() if rng.random() > 0.03}


def json_line(rng: random.Random) -> bytes:
    suffix = "".join(rng.choice(PIECES) for _ in range(rng.randrange(8)))
    if rng.random() < 0.001:
        suffix = "<loc" * 200_000
    record = {
        "image": value(rng, "a.jpg"),
        "prefix": value(rng, "detect cat"),
        "suffix": value(rng, suffix),
    }
    line = json.dumps(without_some(rng, record)).encode()
    damage = rng.random()
    if damage < 0.03:
        line = line[: rng.randrange(len(line))]
    elif damage < 0.05:
        line = rng.randbytes(rng.randrange(60)).replace(b"\n", b"")
    elif damage < 0.052:
        line = b"[" * 20_000
    return line


def coco_file(rng: random.Random, records: int) -> dict:
    images = [
        without_some(rng, {"id": value(rng, n), "file_name": value(rng, "a.jpg"),
                           "width": value(rng, SIZE[0]), "height": value(rng, SIZE[1])})
        for n in range(records)
    ]  # fmt: skip
    annotations = [
        without_some(rng, {
            "id": value(rng, n), "image_id": value(rng, n), "category_id": value(rng, n % 3),
            "bbox": value(rng, [rng.randrange(-20, 130), rng.randrange(-20, 90), 40, 40]),
            "iscrowd": value(rng, 0), "segmentation": value(rng, rng.choice(SEGMENTATIONS)),
        })
        for n in range(records)
    ]  # fmt: skip
    names = ["cat", rng.choice(["dog", "person, someone", "a;b", "<loc0001>", ""]), "T-shirt (red)"]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    file = {"images": images, "categories": categories, "annotations": annotations}
    return {name: value(rng, part) if rng.random() < 0.05 else part for name, part in file.items()}


def read_all(source: Source) -> tuple[int, int]:
    """How many samples of an opened source can be read, and how many are named as invalid."""
    valid, invalid = 0, len(source.invalid)
    for row in range(len(source)):
        try:
            sample = source[row]
            assert isinstance(sample.prefix, str) and isinstance(sample.suffix, str)
            valid += 1
        except InvalidSample:
            invalid += 1
    return valid, invalid


def run(folder: Path, records: int, codec: MaskCodec, seed: int = 0) -> dict[str, int]:
    """Read `records` of each kind; how many were valid, invalid, and in files refused whole."""
    Image.new("RGB", SIZE, "teal").save(folder / "a.jpg")
    rng, counts = random.Random(seed), {"valid": 0, "invalid": 0, "refused files": 0}
    for start in range(0, records, FILE_RECORDS):
        count = min(FILE_RECORDS, records - start)
        lines, coco = folder / "lines.jsonl", folder / "coco.json"
        lines.write_bytes(b"\n".join(json_line(rng) for _ in range(count)))
        coco.write_text(json.dumps(coco_file(rng, count)))
        for open_source in (
            lambda lines=lines: JsonLines(lines),
            lambda coco=coco: CocoSource(coco, None, "segment", codec),
        ):
            try:
                valid, invalid = read_all(open_source())
            except ValueError as error:
                assert type(error) is ValueError and str(error).count("\n") == 0, repr(error)
                counts["refused files"] += 1
            else:
                counts["valid"] += valid
                counts["invalid"] += invalid
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    builtin = Path(__file__).parents[2] / "paligemma" / "builtin" / "mask_codec.npz"
    with tempfile.TemporaryDirectory() as home:
        print(run(Path(home), given.records, MaskCodec.load(builtin), given.seed))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB")
