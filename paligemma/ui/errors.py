"""What of an exception reaches a visitor: one sentence, whichever function raised it."""

import asyncio
import logging
import re
from html import escape
from typing import Any

import gradio as gr

logger = logging.getLogger(__name__)
UNEXPECTED = "Something went wrong. Try again; whoever runs this app finds the reason in its log."
# A directory in front of a file's name. Addresses, fractions and HTML tags are none.
DIRECTORY = re.compile(r"(?<![\w/:.<>])/(?:[^\s/'\"“”,;:]+/)+(?=[^\s/])")
NOT_ERRORS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class AppBlocks(gr.Blocks):
    """Blocks whose functions, and the steps before and after them, fail with a sentence.

    That is the text of a ValueError, and UNEXPECTED for all else, which is logged. `shows_paths`:
    of files on this machine, in full.
    """

    shows_paths = True

    async def process_api(self, block_fn: Any, *args, **options) -> dict[str, Any]:
        try:
            return await super().process_api(block_fn, *args, **options)
        except gr.Error as error:
            error.message = self._without_directories(error.message)
            raise
        except NOT_ERRORS:
            raise
        except ValueError as error:
            function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
            message = self._without_directories(str(error))
            if function.api_visibility != "public":
                message = escape(message, quote=False)  # the page would render HTML
            raise gr.Error(message, print_exception=False) from error
        except BaseException as error:  # a panic in Rust is no Exception
            logger.exception("A request failed.")
            raise gr.Error(UNEXPECTED, print_exception=False) from error

    def _without_directories(self, message: str) -> str:
        return message if self.shows_paths else DIRECTORY.sub("", message)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, images, links or emphasis."""
    return re.sub(r"([\\`*_{}\[\]()!~|$:/.@+-])", r"\\\1", escape(text, quote=False))
