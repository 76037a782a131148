"""How many of a data set's conversations a model answers exactly."""

from himix_edge.training.pixels import ImageLoader
from himix_edge.training.teacher_forced import exact_answers


def exact_match(model, text, samples) -> tuple[int, int]:
    """(right, asked)."""
    right = [exact for _, exact in exact_answers(model, text, samples, ImageLoader(model.config.vision))]
    return sum(right), len(right)
