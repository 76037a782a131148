"""A recipe that trains the tiny model in seconds."""

from himix_edge.training.recipe import DataPart, Recipe, Stage

STAGE = Stage("all", ("tower", "injection", "decoder"), steps=6, learning_rate=1e-3, warmup_steps=2, tower_loss=0.5)
DATA = DataPart("easy-vqa", samples=40)
RECIPE = Recipe(
    model="", pretrained=True, stages=(STAGE,), data=(DATA,), images_per_step=4, conversations_per_image=2,
    precision="float32", join=0.3, mirror=True, shift=2, shade=0.2, jitter=0.1, validation_images=4, evaluate_every=3,
    checkpoint_every=2,
)  # fmt: skip
