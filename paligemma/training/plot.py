"""The loss curve of a run, as a PNG."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SMOOTH = 0.95  # share of the past in the running mean


def draw_curve(losses: np.ndarray, eval_losses: Mapping[int, float], path: Path) -> None:
    """Write a PNG of the loss of every step [steps], its running mean, and evaluations by step."""
    mean, means = losses[0], []
    for number, loss in enumerate(losses):
        keep = min(SMOOTH, number / (number + 1))  # an even mean of the first few
        mean = keep * mean + (1 - keep) * loss
        means.append(mean)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="#56b4e9", linewidth=0.8, alpha=0.6, label="step")
    axes.plot(steps, means, color="#0072b2", linewidth=1.8, label="running mean")
    if eval_losses:
        axes.plot(
            *zip(*eval_losses.items(), strict=True), "o-", color="#d55e00", label="evaluation"
        )
    axes.set(xlabel="step", ylabel="loss", yscale="log" if losses.min() > 0 else "linear")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
