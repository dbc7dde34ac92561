"""The command `paligemma`, also `python -m paligemma`.

A user's mistake is one line on stderr and exit code 2.
"""

import argparse
import sys

from paligemma.cli import checkpoints, evaluation, inference, training


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="paligemma", description="PaliGemma: vision-language models, from scratch."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in (inference, training, evaluation, checkpoints):
        module.add_commands(commands)
    commands.add_parser("app", help="serve the web app", add_help=False)
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["app"]:  # its parser needs gradio, which takes seconds to import
            from paligemma.ui.app import main as serve

            serve(argv[1:], prog="paligemma app")
        else:
            arguments = parser.parse_args(argv)
            arguments.run(arguments)
    except ValueError as error:
        print(f"paligemma: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"paligemma: {error}. Install the extras: draw, app, train, eval.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"paligemma: {str(interrupt) or 'stopped'}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
