"""Relaxed accuracy, the score of ChartQA.

    relaxed_match("20.9", "20")  # True

Masry et al., arXiv 2203.10244, section 5.1, as pix2struct and big_vision count.
"""

TOLERANCE = 0.05


def relaxed_match(answer: str, reference: str) -> bool:
    """Whether a number is within 5 % of the reference, or a text equal to it but for letter case.

    "12%" is 0.12, a year is a number like others, and a reference of 0 has no tolerance.
    """
    given, wanted = _number(answer), _number(reference)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= TOLERANCE
    return answer.lower() == reference.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
