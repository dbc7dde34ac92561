"""Hostile checkpoints by seed, and what loading each one comes to, in a process of its own.

Not a test file: test_fuzz.py uses it. Every case changes one thing of a small valid checkpoint: a
number of its config, a header or a tensor of its weights, its tokenizer, an adapter or an npz.
"""

import json
import multiprocessing
import resource
import shutil
import struct
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import psutil
import tiny
import torch
from safetensors.torch import load_file, save_file

from paligemma.checkpoints import lora
from paligemma.checkpoints.big_vision import write as write_npz
from paligemma.checkpoints.io import load_model
from paligemma.checkpoints.resolve import resolve

KINDS = ("config", "header", "tensor", "tokenizer", "adapter", "npz")
NUMBERS = (0, -1, 1, 3, 2**31, 10**10, 2**63, 10**30, 0.5, 1e-320, 1e308, float("nan"))
NUMBERS = (*NUMBERS, float("inf"), True, None, "8", "9" * 5000, [], [1] * 99, {}, {"a": {}})
TEXTS = ("", "\0", "../../etc/passwd", "a" * 10**6, "\ud800", "(a+)+$", "owner/../x", "🙂", "NaN")
PATTERNS = ("(a+)+$", "(.*)*x", "([a]|[a])" * 40, "(" * 999, "[", "\\", "(?<=a+)b", "a{99999}")
MEMORY = 3_000_000_000  # bytes of address space that a process may map beyond its start


@dataclass(frozen=True)
class Outcome:
    """What one case came to: "loaded", "refused", or what else was raised."""

    kind: str
    seed: int
    result: str
    message: str
    seconds: float
    memory: int = 0  # peak resident bytes beyond the process's start, sampled


def write_valid(folder: Path) -> None:
    """The valid checkpoint, and of it an adapter and an npz, which the cases start from."""
    tiny.write(folder / "folder")
    model = load_model(folder / "folder")
    (folder / "npz").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / "folder" / name, folder / "npz")
    write_npz(folder / "npz" / "w.npz", model.config, model.state_dict())
    config = lora.Adapter(str(folder / "folder"), 2, 4.0, ("q_proj",))
    names = lora.attach(model, config)
    parameters = dict(model.named_parameters())
    lora.save(folder / "adapter", config, {name: parameters[name].detach() for name in names})


def write_case(valid: Path, folder: Path, kind: str, seed: int) -> Path:
    """A hostile variant in `folder`; what `resolve` is to be given."""
    random = Random(f"{kind} {seed}")
    source = valid / (kind if kind in ("adapter", "npz") else "folder")
    shutil.copytree(source, folder)
    if kind == "config":
        _change_json(folder / "config.json", random)
    elif kind == "tokenizer":
        _change_tokenizer(folder / "tokenizer.json", random)
    elif kind == "adapter" and random.random() < 0.7:
        _change_json(folder / lora.CONFIG, random)
    elif kind == "npz":
        _change_npz(folder / "w.npz", random)
        return folder / "w.npz"
    else:
        weights = folder / (lora.WEIGHTS if kind == "adapter" else "model.safetensors")
        (_change_tensor if kind == "tensor" else _change_header)(weights, random)
    return folder


def _objects(values, found: list) -> list:
    """Every object and list in a JSON document."""
    if isinstance(values, dict | list):
        found.append(values)
        for value in values.values() if isinstance(values, dict) else values:
            _objects(value, found)
    return found


def _change_json(path: Path, random: Random) -> None:
    values = json.loads(path.read_text("utf-8"))
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.choice([found for found in _objects(values, []) if found])
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place[key] = random.choice((*NUMBERS, *TEXTS))
    _write(path, json.dumps(values), random)


def _write(path: Path, text: str, random: Random) -> None:
    damage = random.random()
    if damage < 0.05:
        text = text[: random.randrange(len(text))]
    elif damage < 0.1:
        text = "[" * 100_000
    path.write_text(text, "utf-8")


def _change_tokenizer(path: Path, random: Random) -> None:
    values = json.loads(path.read_text("utf-8"))
    split = {"type": "Split", "pattern": {"Regex": random.choice(PATTERNS)}}
    split |= {"behavior": "Isolated", "invert": False}
    match random.randrange(7):
        case 0:
            values["pre_tokenizer"] = split
        case 1:
            content = "a" * 10 ** random.randrange(7)
            parts = [{"type": "Replace", "pattern": {"String": "a"}, "content": content}] * 9
            values["normalizer"] = {"type": "Sequence", "normalizers": parts}
        case 2:
            token = random.choice(values["added_tokens"])
            token[random.choice(list(token))] = random.choice((*NUMBERS, *TEXTS))
        case 3:
            vocabulary = values["model"]["vocab"]
            vocabulary[random.choice(list(vocabulary))] = random.choice(NUMBERS)
        case 4:
            key = random.choice(list(values["model"]))
            values["model"][key] = random.choice((*NUMBERS, *TEXTS))
        case 5:
            part = random.choice(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
            place = random.choice(_objects(values[part], []) or [values])
            key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place[key] = random.choice((*NUMBERS, *TEXTS, split))
        case 6:
            values[random.choice(list(values))] = random.choice((*NUMBERS, *TEXTS))
    _write(path, json.dumps(values), random)


def _change_header(path: Path, random: Random) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = random.choice([name for name in header if name != "__metadata__"])
    sizes = (0, -1, 1, 2**31, 2**62, 2**64, 10**30, 0.5, None, "3")
    claimed = None
    match random.randrange(5):
        case 0:
            header[name]["shape"] = [random.choice(sizes) for _ in range(random.randrange(5))]
        case 1:
            header[name]["data_offsets"] = [random.choice(sizes), random.choice(sizes)]
        case 2:
            header[name]["dtype"] = random.choice(("F64", "F8_E4M3", "I64", "BOOL", "X", 7, None))
        case 3:
            header[random.choice(TEXTS[:4])] = header.pop(name)
        case 4:
            claimed = random.choice((0, 1, 2**31, 2**63, 2**64 - 1))
    text = json.dumps(header).encode("utf-8")
    claimed = len(text) if claimed is None else claimed
    path.write_bytes(struct.pack("<Q", claimed) + text + data[8 + length :])


def _change_tensor(path: Path, random: Random) -> None:
    state = load_file(path)
    name = random.choice(list(state))
    match random.randrange(4):
        case 0:
            state[name].view(-1)[0] = random.choice((float("nan"), float("inf"), -float("inf")))
        case 1:
            state[name] = state[name].to(random.choice((torch.int64, torch.float64, torch.bool)))
        case 2:
            state[name] = torch.zeros([1] * random.randrange(9))
        case 3:
            state[random.choice(("lm_head.weight", "x" * 10**5, "a.b"))] = state[name].clone()
    save_file(state, path)


def _change_npz(path: Path, random: Random) -> None:
    with zipfile.ZipFile(path) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(arrays))
    shape = tuple(random.choice((1, 48, 10**9, 10**18)) for _ in range(random.randrange(5)))
    dtype = random.choice(("<f4", "<f8", "|V2", "|O", "<U1000000", "|S9"))
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    forged = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header
    content = random.choice((forged, forged + bytes(20_000_000), b"", arrays[name][:40], b"\x93"))
    arrays[name] = content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in arrays.items():
            archive.writestr(each, data)
    if random.random() < 0.2:
        data = path.read_bytes()
        place = random.randrange(len(data))
        path.write_bytes(data[:place] + bytes([random.randrange(256)] * 9) + data[place + 9 :])


def _load_all(valid: Path, folder: Path, connection) -> None:
    """A process that loads each case that it is sent, and sends back what that came to."""
    torch.set_num_threads(1)
    resolve(valid / "folder").load_model()
    mapped = psutil.Process().memory_info().vms
    _, highest = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, highest))
    connection.send("ready")
    while (case := connection.recv()) is not None:
        source = write_case(valid, folder / "-".join(map(str, case)), *case)
        began = time.perf_counter()
        try:
            checkpoint = resolve(source)
            checkpoint.load_model("cpu", torch.float32)
            checkpoint.processor.encode_prompt("detect cat" + " a" * 50)
            result, message = "loaded", ""
        except ValueError as error:
            result, message = "refused", str(error)
        except BaseException as error:
            result, message = type(error).__name__, repr(error)[:500]
        seconds = time.perf_counter() - began
        shutil.rmtree(folder / "-".join(map(str, case)))
        connection.send(Outcome(*case, result, message, seconds))


def run(folder: Path, count: int, seconds: float) -> list[Outcome]:
    """Load `count` cases, with `seconds` for each; one that takes longer ends as "too slow"."""
    write_valid(folder / "valid")
    (folder / "cases").mkdir()
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_load_all, args=(folder / "valid", folder / "cases", there))
    process.start()
    outcomes = []
    try:
        there.close()
        assert here.poll(120) and here.recv() == "ready"
        watched = psutil.Process(process.pid)
        start = watched.memory_info().rss
        for n in range(count):
            case = KINDS[n % len(KINDS)], n // len(KINDS)
            here.send(case)
            deadline, peak = time.perf_counter() + seconds, start
            while not (done := here.poll(0.01)) and time.perf_counter() < deadline:
                peak = max(peak, watched.memory_info().rss)
            if not done:
                outcomes.append(Outcome(*case, "too slow", "", seconds))
                break
            outcomes.append(replace(here.recv(), memory=peak - start))
        else:
            here.send(None)
            process.join(10)
    except EOFError:
        outcomes.append(Outcome(*case, "the process died", "", 0))
    finally:
        process.kill()
        process.join()
    return outcomes
