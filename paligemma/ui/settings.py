"""The settings of generation: their components, and the options that they stand for."""

import gradio as gr
from gradio.components import Component

from paligemma.generation import MAX_NEW_TOKENS, SamplingOptions


def create_settings() -> dict[str, Component]:
    """A component for each field of SamplingOptions, not rendered yet."""
    default = SamplingOptions()
    max_new_tokens = gr.Slider(
        1, MAX_NEW_TOKENS, default.max_new_tokens, step=1, label="Max new tokens", render=False
    )
    temperature = gr.Slider(
        0, 2, default.temperature, step=0.05, label="Temperature (0 = greedy)", render=False
    )
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": gr.Slider(0, 100, default.top_k, step=1, label="Top k (0 = all)", render=False),
        "top_p": gr.Slider(0.05, 1, default.top_p, step=0.05, label="Top p", render=False),
        "seed": gr.Number(default.seed, precision=0, label="Seed", render=False),
    }


def render_settings(settings: dict[str, Component]) -> None:
    with gr.Accordion("Settings", open=False), gr.Row():
        for component in settings.values():
            component.render()


def sampling_options(**values) -> SamplingOptions:
    """The options that the settings stand for; a cleared field has its default.

    Raises ValueError for values outside their bounds.
    """
    return SamplingOptions(**{name: v for name, v in values.items() if v is not None})
