"""The curves of a run, its loss and its scores, as a PNG."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SMOOTH = 0.95  # share of the past in the running mean


def draw_curve(
    losses: np.ndarray,
    eval_losses: Mapping[int, float],
    eval_scores: Mapping[int, Mapping[str, float]],
    path: Path,
) -> None:
    """Write a PNG of the loss of every step [steps], its running mean, and evaluations by step.

    The scores of evaluations, if there are any, have a plot of their own below.
    """
    mean, means = losses[0], []
    for number, loss in enumerate(losses):
        keep = min(SMOOTH, number / (number + 1))  # an even mean of the first few
        mean = keep * mean + (1 - keep) * loss
        means.append(mean)
    rows = 2 if eval_scores else 1
    figure = Figure(figsize=(8, 4.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes, *below = figure.subplots(rows, squeeze=False)[:, 0]
    for scores in below:
        for name in next(iter(eval_scores.values())):
            points = [(step, each[name]) for step, each in eval_scores.items() if name in each]
            scores.plot(*zip(*points, strict=True), "o-", label=name)
        scores.set(xlabel="step", ylabel="score", xlim=(0, len(losses) + 1), ylim=(0, None))
        scores.grid(alpha=0.3)
        scores.legend(frameon=False)
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
