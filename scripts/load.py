"""The app under load and faults: python scripts/load.py [--sessions 2500] [--cancels 500]
                                  [--uploads 1000] [--kills 20] [--rest 660]

Starts `app.py` as a page that strangers reach (--allow-host) and does what one hostile client can:
sessions that never read their answers, as many runs of one client as the queue has places, runs
that are cancelled at once, and uploads that are cut off. After each a stranger asks; the seconds
until the answer, memory and temporary files are printed, and again after a rest, in which the files
of uploads that were cut off are deleted. Then `kill -9` under all of it, and a new start, several
times. Prints one JSON line last.

Exits with 1 if a stranger waited for more than 15 seconds, the app logged a traceback, or a start
left files of a killed app.
"""

import argparse
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from running_app import RunningApp  # noqa: E402

from paligemma.ui.queue import MAX_WAITING  # noqa: E402
from paligemma.ui.temp_files import PREFIX  # noqa: E402

MAX_SECONDS = 15  # that a stranger waits
PUBLIC = "--allow-host", "paligemma.example"
IMAGE = ROOT / "examples" / "harbour.png"
LONG_RUN = [512, 100, 0, 1, 0]  # settings: at this temperature answers seldom end before
CUT_OFF = (
    "POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10000000\r\n"
    "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
)


class Visitor:
    """A session with a network address of its own, by number."""

    def __init__(self, http: httpx.Client, number: int) -> None:
        address = f"8.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        self._http, self._headers = http, {"X-Forwarded-For": address}
        self._session = f"session {number}"

    def post(self, route: str, **body: Any) -> httpx.Response:
        return self._http.post(route, headers=self._headers, **body)

    def upload(self) -> dict:
        files = {"files": (IMAGE.name, IMAGE.read_bytes())}
        [path] = self.post("/upload", files=files).raise_for_status().json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def join(self, function: int, data: list) -> httpx.Response:
        body = {"fn_index": function, "data": data, "session_hash": self._session}
        return self.post("/queue/join", json=body)

    def cancel(self, function: int, event_id: str) -> None:
        body = {"session_hash": self._session, "fn_index": function, "event_id": event_id}
        self.post("/cancel", json=body)

    def ask(self) -> float:
        """Upload and ask: the seconds until the whole answer is there."""
        start = time.monotonic()
        request = {"data": [self.upload(), "caption en", 20]}
        event = self.post("/call/generate", json=request).raise_for_status().json()["event_id"]
        answer = self._http.get(f"/call/generate/{event}").text
        if "event: complete" not in answer:
            raise RuntimeError(f"A stranger got {answer[-300:]!r}.")
        return time.monotonic() - start


class Load:
    """What one client does to an app. Each returns how often each thing happened."""

    def __init__(self, app: RunningApp) -> None:
        self.app, self._numbers = app, iter(range(1, 10**6))
        self._http = httpx.Client(base_url=f"{app.url}/gradio_api", timeout=60)
        config = httpx.get(f"{app.url}/config").json()["dependencies"]
        private = [each for each in config if each["backend_fn"] and not each["inputs"]]
        self.quick = private[0]["id"]  # a function of the page that takes nothing
        self.long = next(each["id"] for each in config if each["api_name"] == "tab_read")
        self.image = self.visitor().upload()

    def visitor(self) -> Visitor:
        return Visitor(self._http, next(self._numbers))

    def silent_sessions(self, count: int) -> Counter:
        """Each joins the queue and never reads, while six long runs of one session wait.

        One that finds no place tries again, until it has one.
        """
        long = self.visitor()
        answers = [long.join(self.long, [self.image, *LONG_RUN]) for _ in range(6)]

        def join(_) -> httpx.Response:
            visitor = self.visitor()
            while (answer := visitor.join(self.quick, [])).status_code == 503:
                time.sleep(0.1)
            return answer

        return _statuses([*answers, *_in_threads(join, count)])

    def greedy_client(self, count: int) -> Counter:
        visitor = self.visitor()
        return _statuses(visitor.join(self.long, [self.image, *LONG_RUN]) for _ in range(count))

    def cancel_storm(self, count: int) -> Counter:
        """Long runs of many clients, cancelled at once or when they have begun."""

        def run(n: int) -> httpx.Response:
            visitor = self.visitor()
            answer = visitor.join(self.long, [self.image, *LONG_RUN])
            time.sleep(random.Random(n).choice((0, 0, 0.05, 0.3)))
            if answer.is_success:
                visitor.cancel(self.long, answer.json()["event_id"])
            return answer

        return _statuses(_in_threads(run, count))

    def cut_off_uploads(self, count: int) -> Counter:
        """Slow uploads of 10 MB that end after 128 KB."""
        host = urlsplit(self.app.url)

        def send(_) -> str:
            with socket.create_connection((host.hostname, host.port), timeout=60) as connection:
                connection.sendall(CUT_OFF.format(host=host.netloc).encode())
                for _ in range(2):
                    connection.sendall(bytes(64 * 1024))
                    time.sleep(0.1)
            return "cut off"

        return Counter(_in_threads(send, count, threads=50))


def _in_threads(do: Callable[[int], Any], count: int, threads: int = 12) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, range(count)))


def _statuses(answers: Iterable[httpx.Response]) -> Counter:
    return Counter(f"status {answer.status_code}" for answer in answers)


def state_of(app: RunningApp) -> dict[str, float]:
    sizes = app.file_sizes
    return {
        "memory_mb": round(app.memory_mb),
        "files": len(sizes),
        "files_mb": round(sum(sizes) / 1e6, 1),
    }


def attack(
    folder: Path, sessions: int, cancels: int, uploads: int, rest: int
) -> dict[str, dict[str, Any]]:
    """Each kind of load on one app: what happened, a stranger's seconds, and what is left.

    After all of them the app rests for `rest` seconds.
    """
    app = RunningApp(folder, *PUBLIC)
    try:
        load = Load(app)
        load.visitor().ask()
        results = {"before": {"stranger_s": load.visitor().ask(), **state_of(app)}}
        for name, count in {
            "cut_off_uploads": uploads,
            "silent_sessions": sessions,
            "greedy_client": MAX_WAITING,
            "cancel_storm": cancels,
        }.items():
            start = time.monotonic()
            tally = getattr(load, name)(count)
            load_s = round(time.monotonic() - start, 1)
            result = {"tally": dict(tally), "load_s": load_s, "stranger_s": load.visitor().ask()}
            results[name] = result | state_of(app)
            print(name, json.dumps(results[name]), flush=True)
        time.sleep(rest)
        results["after"] = {"stranger_s": load.visitor().ask(), **state_of(app)}
        results["after"]["tracebacks"] = app.log.count("Traceback")
        return results
    finally:
        app.kill()


def kill_under_load(folder: Path, kills: int) -> dict[str, Any]:
    """Kill the app under load and start it again: the strangers' seconds, and what was left."""
    waited, left, chance = [], 0, random.Random(0)
    for number in range(kills + 1):
        app = RunningApp(folder, *PUBLIC)
        try:
            own = {path.name for path in app.files_folder.glob(f"{PREFIX}*")}
            left += len(own) - 1  # folders of killed apps
            load = Load(app)
            waited.append(load.visitor().ask())
            if number < kills:
                kinds = load.cut_off_uploads, load.cancel_storm, load.silent_sessions
                threads = [
                    threading.Thread(target=_until_killed, args=(kind,), daemon=True)
                    for kind in kinds
                ]
                for thread in threads:
                    thread.start()
                time.sleep(chance.uniform(0.5, 3))
        finally:
            app.kill()
        print(f"start {number}: a stranger waited {waited[-1]:.1f} s", flush=True)
    return {"kills": kills, "stranger_s": max(waited), "folders_left": left}


def _until_killed(load: Callable[[int], Any]) -> None:
    try:
        while True:
            load(50)
    except (OSError, httpx.HTTPError):
        return


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = {"sessions": 2500, "cancels": 500, "uploads": 1000, "kills": 20, "rest": 660}
    for name, count in counts.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"default: {count}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = attack(Path(name), args.sessions, args.cancels, args.uploads, args.rest)
        results["kill"] = kill_under_load(Path(name), args.kills)
    print(json.dumps(results))
    slowest = max(result["stranger_s"] for result in results.values())
    faults = results["after"]["tracebacks"] + results["kill"]["folders_left"]
    return int(slowest > MAX_SECONDS or faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
