"""The loss by which a tower learns words: which of them an image's answers have, from whatever place shows them."""

import math
from dataclasses import replace

import torch

from himix_edge.training.batch import Batch, Row, collate
from himix_edge.training.objective import WordHead, tower_loss
from tests.conftest import TINY

WORDS = (7, 3, 9)
CONFIG = replace(TINY, vision_hidden_size=4, vision=None)


def batch_of(*rows: tuple[list[int], int | None]) -> Batch:
    """Rows of a first token that is asked and answers."""
    made = [Row([1, *answer], [False] + [True] * len(answer), image) for answer, image in rows]
    return collate([], sorted(made, key=Row.place))


def test_it_is_what_the_definition_says_word_by_word():
    torch.manual_seed(0)
    head, features = WordHead(CONFIG, WORDS), torch.randn(2, 3, 4)
    torch.nn.init.normal_(head.linear.weight)
    batch = batch_of(([7, 4], 0), ([3, 7], 0), ([9], 1), ([3], None))  # 4 is no word; the last row is about no image
    expected = 0.0
    for image, shown in zip(features, ({7, 3}, {9}), strict=True):
        for word, weight, bias in zip(WORDS, head.linear.weight.detach(), head.linear.bias.detach(), strict=True):
            logits = [float(weight @ (place / place.square().mean().sqrt()) + bias) for place in image]
            logit = math.log(sum(map(math.exp, logits)))
            expected += math.log1p(math.exp(-logit if word in shown else logit))
    assert math.isclose(float(tower_loss(features, head, batch).detach()), expected, rel_tol=1e-4)


def test_without_an_image_there_is_nothing_to_lose():
    head = WordHead(CONFIG, WORDS)
    loss = tower_loss(torch.zeros(0, 3, 4), head, batch_of(([3], None)))
    assert loss.item() == 0
    loss.backward()
    assert head.linear.weight.grad.abs().max() == 0  # not None: other processes wait for it


def test_places_learn_what_they_show_though_only_images_are_named():
    torch.manual_seed(0)
    looks, head = torch.randn(4, 4), WordHead(CONFIG, (2, 3, 4, 5))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(150):
        things = torch.randint(4, (8, 3))
        batch = batch_of(*(([2 + thing for thing in shown], i) for i, shown in enumerate(things.tolist())))
        optimizer.zero_grad()
        tower_loss(looks[things], head, batch).backward()
        optimizer.step()
    assert head(looks[:, None]).argmax(-1).tolist() == [0, 1, 2, 3]
