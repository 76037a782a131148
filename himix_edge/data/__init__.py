"""Datasets: images and the conversations about them, from easy-VQA, EmojiScenes or LLaVA-format JSON."""

from himix_edge.data.dataset import Dataset, JoinedSamples, Sample, Turn
from himix_edge.data.loading import load_dataset, load_images

__all__ = ["Dataset", "JoinedSamples", "Sample", "Turn", "load_dataset", "load_images"]
