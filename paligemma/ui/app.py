"""The web app as a program: `python app.py`, or `paligemma app`.

    python app.py [--model M] [--dtype D] [--device D] [--quantize int8] [--host 127.0.0.1]
                  [--port 7860] [--allow-host NAME] [--share] [--mcp]

Environment variables: PALIGEMMA_MODEL, PALIGEMMA_DTYPE, PALIGEMMA_DEVICE and PALIGEMMA_QUANTIZE are
the defaults of those options, GRADIO_SERVER_NAME and GRADIO_SERVER_PORT of host and port, and
PALIGEMMA_ALLOW_HOSTS of --allow-host: names with commas between them.
"""

import argparse
import os
from collections.abc import Sequence

from starlette.middleware import Middleware

from paligemma.pipeline import PaliGemma
from paligemma.ui import SERVER_PORT
from paligemma.ui.health import health_route, start_watchdog
from paligemma.ui.layout import ON_SPACE, build_app
from paligemma.ui.memory import give_memory_back
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.network import NetworkPolicy, RequestFilter, check_port, read_port
from paligemma.ui.queue import PRIVATE_LIMITS, PUBLIC_LIMITS
from paligemma.ui.temp_files import Cleanup, DiskGuard, use_own_folder
from paligemma.ui.theme import LAUNCH_OPTIONS


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Load a model and serve the app until the program is stopped.

    `prog` is the program's name in messages (None: that of the file that was started).
    """
    parser = create_parser(prog)
    args = parser.parse_args(argv)
    give_memory_back()
    is_shared, root_path = args.share or ON_SPACE, os.environ.get("GRADIO_ROOT_PATH", "")
    try:
        policy = NetworkPolicy.of(args.host, is_shared, root_path, args.allow_host)
        port = read_port(args.port)
        check_port(args.host, port)
        folder = use_own_folder()
        model = PaliGemma.load(
            args.model,
            args.device,
            args.dtype,
            args.tokenizer,
            args.mask_codec,
            args.base,
            args.quantize,
        )
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    models = ModelManager(
        model,
        args.device,
        args.dtype,
        args.mask_codec,
        args.quantize,
        any_model=policy.is_private,
        can_switch=args.model_switch,
    )
    demo = build_app(models, limits=PRIVATE_LIMITS if policy.is_private else PUBLIC_LIMITS)
    cleanup = Cleanup(demo, folder)
    cleanup.start()
    start_watchdog(demo)
    demo.launch(
        server_name=args.host,
        server_port=port,
        share=args.share,
        mcp_server=args.mcp,
        app_kwargs={
            "middleware": [
                Middleware(RequestFilter, policy=policy),
                Middleware(DiskGuard, cleanup=cleanup),
            ],
            "routes": [health_route(demo, models)],
        },
        **LAUNCH_OPTIONS,
    )


def create_parser(prog: str | None = None) -> argparse.ArgumentParser:
    environment = {name: os.environ.get(f"PALIGEMMA_{name}") or None for name in _VARIABLES}
    parser = argparse.ArgumentParser(prog, description="Serve the PaliGemma app.")
    parser.add_argument(
        "--model",
        default=environment["MODEL"],
        help="a folder, an .npz or owner/model of the hub (default: the built-in model)",
    )
    parser.add_argument(
        "--dtype", default=environment["DTYPE"], help="float32, bfloat16 or float16"
    )
    parser.add_argument(
        "--device", default=environment["DEVICE"], help="cpu, cuda, cuda:1, mps or auto"
    )
    parser.add_argument(
        "--quantize",
        default=environment["QUANTIZE"],
        help="int8 or int4 for the decoder's weights, on the CPU",
    )
    parser.add_argument("--tokenizer", help="a tokenizer.json, where the weights have none")
    parser.add_argument(
        "--mask-codec", help="the .npz of the mask codec, where the weights have none"
    )
    parser.add_argument("--base", help="the base of an adapter, instead of the one that it names")
    parser.add_argument(
        "--model-switch",
        action=argparse.BooleanOptionalAction,
        default=not (ON_SPACE and environment["MODEL"]),
        help="visitors may load another model, for everybody (default: yes, but on a Space with "
        "PALIGEMMA_MODEL)",
    )
    host = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    port = SERVER_PORT or "7860"
    names = os.environ.get("PALIGEMMA_ALLOW_HOSTS", "").split(",")
    parser.add_argument("--host", default=host, help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", default=port)
    parser.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        default=[name for name in names if name.strip()],
        help="a name under which a proxy serves the app; may be given several times",
    )
    parser.add_argument("--share", action="store_true", help="a public link through gradio.live")
    parser.add_argument("--mcp", action="store_true", help="serve the tasks as MCP tools too")
    return parser


_VARIABLES = ("MODEL", "DTYPE", "DEVICE", "QUANTIZE")
