"""Many visitors at once, for long: python scripts/visitors.py [--minutes 30] [--visitors 8]

Starts `app.py` as a program and visits it over HTTP: uploads (broken ones among them), every tab
that asks the model but Compare, stops in the middle, pages left while they answer. Prints memory
and temporary files each minute, then one JSON line. Not collected by pytest.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from running_app import RunningApp  # noqa: E402

from paligemma.synthetic.scenes import KINDS, render, sample  # noqa: E402

SETTINGS = (128, 0, 0, 1, 0)
EXPECTED = ("is not an image", "There is no picture", "needs", "There is no prompt")


def visit(url: str, folder: Path, rng: random.Random, tally: Counter, until: float) -> None:
    """Visits of some requests each, until the time is up."""
    while time.time() < until:
        try:
            client = Client(url, verbose=False)
            for _ in range(rng.randint(3, 12)):
                if time.time() > until:
                    return
                request(client, folder, rng, tally)
                time.sleep(rng.random())
            tally["visits"] += 1
        except Exception as error:
            tally[f"unexpected: {type(error).__name__}: {error}"[:200]] += 1
            time.sleep(1)


def request(client: Client, folder: Path, rng: random.Random, tally: Counter) -> None:
    path = folder / f"{rng.randrange(10**9)}.png"
    if rng.random() < 0.1:
        path.write_bytes(b"not a picture")
    else:
        render(sample(rng.randrange(10**6)), rng.choice((128, 256, 640))).save(path)
    kinds = " ; ".join(rng.sample(list(KINDS), 2))
    tabs = {
        "caption": ("en", "caption"),
        "ask": (rng.choice(("how many things are there?", "")), "en"),
        "read": (),
        "detect": (kinds, 0, 1),
        "segment": (kinds, 0, 1, 0.5, True),
        "region": ("20, 20, 80, 80", "region", "", "en"),
        "attention": ("caption en", "middle", 0.5),
        "batch": (f"detect {kinds}",),
    }
    name, values = rng.choice(list(tabs.items()))
    try:
        if rng.random() < 0.4:
            named = {"detect": (kinds,), "segment": (kinds,), "ask": ("is there a cat?",)}
            name = name if name in ("caption", "read", *named) else "read"
            client.predict(handle_file(path), *named.get(name, ()), api_name=f"/{name}")
            tally[f"api {name}"] += 1
            return
        given = [handle_file(path)] * 3 if name == "batch" else handle_file(path)
        job = client.submit(given, *values, *SETTINGS, api_name=f"/tab_{name}")
        if rng.random() < 0.2:
            time.sleep(rng.random() * 0.3)
            job.cancel()
            tally["stopped"] += 1
        elif rng.random() < 0.1:
            tally["left"] += 1  # nobody waits for the answer
        else:
            job.result(timeout=120)
            tally[f"tab {name}"] += 1
    except AppError as error:
        known = any(words in str(error) for words in EXPECTED)
        tally["refused in a sentence" if known else f"unexpected: {error}"[:200]] += 1
    finally:
        path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--visitors", type=int, default=8)
    args = parser.parse_args()
    scratch = tempfile.TemporaryDirectory()
    pictures = Path(scratch.name, "pictures")
    pictures.mkdir()
    app = RunningApp(Path(scratch.name))
    tally, until = Counter(), time.time() + 60 * args.minutes
    threads = [
        threading.Thread(target=visit, args=(app.url, pictures, random.Random(n), tally, until))
        for n in range(args.visitors)
    ]
    for thread in threads:
        thread.start()
    memory, start = [], time.time()
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(60, 6 * args.minutes))
        files = app.file_sizes
        memory.append(app.memory_mb)
        print(
            f"{(time.time() - start) / 60:5.1f} min  {memory[-1]:7.1f} MB resident  "
            f"{len(files):6} files {sum(files) / 1e6:8.1f} MB  {sum(tally.values())} events",
            flush=True,
        )
    app.kill()
    unexpected = {words: n for words, n in tally.items() if words.startswith("unexpected")}
    result = {"tally": dict(tally), "memory_mb": [round(m, 1) for m in memory]}
    result["tracebacks"] = app.log.count("Traceback")
    print(json.dumps(result))
    print(app.log[-2000:], file=sys.stderr)
    scratch.cleanup()
    return 1 if unexpected else 0


if __name__ == "__main__":
    raise SystemExit(main())
