"""What of an exception reaches a visitor: one sentence, whichever function raised it."""

import asyncio
import logging
import re
from html import escape
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction

from paligemma.ui.inputs import UNFIT, check_click, check_values, plain_address, takes_click

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
            error.print_exception = False  # a visitor's mistake is none of the log's
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

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], *args, **options
    ) -> list[Any]:
        """Gradio's, for values that its components take. Raises ValueError for others."""
        if block_fn.fn is None:
            raise ValueError("This function runs in the browser only.")
        if len(inputs) < len(block_fn.inputs):
            raise ValueError(f"{len(block_fn.inputs)} values are needed, not {len(inputs)}.")
        if block_fn.api_visibility == "public":
            inputs = list(map(plain_address, inputs))
        check_values(inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **options)
        except Exception as error:
            raise ValueError(UNFIT) from error

    async def call_function(
        self,
        block_fn: BlockFunction | int,
        processed_input: list[Any],
        iterator: Any = None,
        requests: Any = None,
        event_id: str | None = None,
        event_data: gr.EventData | None = None,
        *args,
        **options,
    ) -> dict[str, Any]:
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if iterator is None and function.fn:
            data = event_data and event_data._data
            check_values(data)
            if takes_click(function.fn):
                check_click(data)
        return await super().call_function(
            block_fn, processed_input, iterator, requests, event_id, event_data, *args, **options
        )

    def _without_directories(self, message: str) -> str:
        return message if self.shows_paths else DIRECTORY.sub("", message)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, images, links or emphasis."""
    return re.sub(r"([\\`*_{}\[\]()!~|$:/.@+-])", r"\\\1", escape(text, quote=False))
