"""paligemma convert, random, bench"""

import json
from argparse import Namespace
from pathlib import Path

from paligemma.cli.common import add_base_option, add_model_options, load_pipeline


def add_commands(commands) -> None:
    parser = commands.add_parser(
        "convert", help="write a checkpoint in another layout or dtype, or merge an adapter"
    )
    parser.add_argument("source", help="a folder, an .npz, owner/model of the hub, or built-in")
    parser.add_argument("destination", type=Path, help="a new folder (safetensors) or .npz")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: unchanged)")
    parser.add_argument("--tokenizer", help="a tokenizer.json, if there is none beside the weights")
    parser.add_argument(
        "--max-shard-size",
        default="5GB",
        metavar="SIZE",
        help="of each safetensors file, such as 9MB (default: %(default)s)",
    )
    add_base_option(parser)
    parser.set_defaults(run=run_convert)

    parser = commands.add_parser("random", help="write random weights of a published size")
    parser.add_argument("variant", help="such as paligemma-3b-224 or paligemma2-10b-448")
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--thin",
        action="store_true",
        help="narrow, with the decoder layers, heads and patches of that size",
    )
    parser.set_defaults(run=run_random)

    parser = commands.add_parser("bench", help="measure loading, memory and speed")
    add_model_options(parser)
    parser.add_argument("--num-tokens", type=int, default=32, help="length of the answer")
    parser.add_argument(
        "--attention", action="store_true", help="measure the cost of recording attention instead"
    )
    parser.set_defaults(run=run_bench)


def run_convert(arguments: Namespace) -> None:
    """Write a checkpoint in another layout or dtype."""
    from paligemma.checkpoints.convert import convert
    from paligemma.checkpoints.resolve import resolve
    from paligemma.devices import parse_dtype

    checkpoint = resolve(arguments.source, arguments.tokenizer, base=arguments.base)
    dtype = None if arguments.dtype is None else parse_dtype(arguments.dtype)
    convert(checkpoint, arguments.destination, dtype, arguments.max_shard_size)
    print(f"Wrote {arguments.destination}.")


def run_random(arguments: Namespace) -> None:
    """Write a checkpoint of a published size with random weights."""
    from paligemma.checkpoints.random_weights import write_random_checkpoint
    from paligemma.devices import parse_dtype

    dtype = parse_dtype(arguments.dtype)
    write_random_checkpoint(arguments.variant, arguments.folder, dtype, arguments.thin)
    print(f"Wrote {arguments.folder}: random weights, whose answers are noise.")


def run_bench(arguments: Namespace) -> None:
    """Measure loading, memory and speed: a table, then one JSON line."""
    from paligemma.bench import format_measurements, measure_attention, measure_generation

    count = arguments.num_tokens
    if count < 2:
        raise ValueError(f"--num-tokens is {count}; at least 2 are needed for a speed.")
    measure = measure_attention if arguments.attention else measure_generation
    measurements = measure(lambda: load_pipeline(arguments), count)
    print(format_measurements(measurements))
    print(json.dumps(measurements, ensure_ascii=False))
