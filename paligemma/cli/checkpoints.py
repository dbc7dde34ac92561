"""paligemma convert, random, bench"""

import json
from argparse import Namespace
from pathlib import Path

from paligemma.cli.common import add_base_option, add_source_options, load_pipeline


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
    parser.add_argument(
        "--quantize", choices=("int8", "int4"), help="the decoder; only this project loads that"
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

    parser = commands.add_parser(
        "bench",
        help="measure loading, memory and speed",
        description="Measure loading, memory and speed. Several variants, precisions or batch "
        "sizes are measured in every combination, each in a process of its own.",
    )
    add_source_options(parser)
    parser.add_argument(
        "--variant",
        nargs="+",
        default=[],
        help="random weights of published sizes, made in memory, instead of --model",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=[],
        choices=("float32", "bfloat16", "float16", "int8", "int4"),
        help="the dtype, or the quantization of the decoder (default: the device's best dtype)",
    )
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1])
    parser.add_argument("--num-tokens", type=int, default=32, help="length of the answer")
    parser.add_argument("--plot", type=Path, help="an image file of the comparison")
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
    convert(checkpoint, arguments.destination, dtype, arguments.max_shard_size, arguments.quantize)
    print(f"Wrote {arguments.destination}.")


def run_random(arguments: Namespace) -> None:
    """Write a checkpoint of a published size with random weights."""
    from paligemma.checkpoints.random_weights import write_random_checkpoint
    from paligemma.devices import parse_dtype

    dtype = parse_dtype(arguments.dtype)
    write_random_checkpoint(arguments.variant, arguments.folder, dtype, arguments.thin)
    print(f"Wrote {arguments.folder}: random weights, whose answers are noise.")


def run_bench(arguments: Namespace) -> None:
    """Measure one combination of the options, or compare several: a table, then one JSON line."""
    count, sizes = arguments.num_tokens, arguments.batch_size
    if not 3 <= count <= 512:
        raise ValueError(f"--num-tokens is {count}; 3 to 512 are possible.")
    if min(sizes) < 1:
        raise ValueError(f"--batch-size is {min(sizes)}; at least 1 is needed.")
    if arguments.variant and arguments.model:
        raise ValueError("--variant makes random weights; leave out --model.")
    several = max(len(arguments.variant), len(arguments.precision), len(sizes)) > 1
    if several and not arguments.attention:
        _compare_speeds(arguments)
    elif several or arguments.plot:
        raise ValueError("--attention measures one model, and --plot compares several.")
    else:
        _measure_speed(arguments)


def _compare_speeds(arguments: Namespace) -> None:
    from paligemma.bench import format_comparison, measure_each, plot_comparison

    options = [
        [f"--{name}={value}" for value in values]
        for name, values in (
            ("variant", arguments.variant),
            ("precision", arguments.precision),
            ("batch-size", arguments.batch_size),
        )
        if values
    ]
    names = ("model", "device", "tokenizer", "mask_codec", "base", "num_tokens")
    given = {name: getattr(arguments, name) for name in names}
    common = [f"--{name.replace('_', '-')}={v}" for name, v in given.items() if v is not None]
    results = measure_each(options, common)
    print(format_comparison(results))
    if arguments.plot:
        plot_comparison(results, arguments.plot)
    print(json.dumps(results, ensure_ascii=False))


def _measure_speed(arguments: Namespace) -> None:
    from paligemma.bench import (
        LoadedModel,
        format_measurements,
        load_random,
        measure_attention,
        measure_generation,
    )

    precision = next(iter(arguments.precision), None)
    arguments.quantize = precision if precision in ("int8", "int4") else None
    arguments.dtype = None if arguments.quantize else precision

    def load() -> LoadedModel:
        if arguments.variant:
            variant, device = arguments.variant[0], arguments.device
            return load_random(variant, device, arguments.dtype, arguments.quantize)
        return LoadedModel.of(load_pipeline(arguments))

    if arguments.attention:
        measurements = measure_attention(load, arguments.num_tokens)
    else:
        measurements = measure_generation(load, arguments.num_tokens, arguments.batch_size[0])
    print(format_measurements(measurements))
    print(json.dumps(measurements, ensure_ascii=False))
