"""The bundled data set: drawings of several objects, with long captions, rendered when they are asked for.

``sample_scene`` draws what a picture shows, ``render_scene`` draws the picture, ``describe_scene`` tells of
it; ``SceneDataset`` puts the three together. Everything follows from version, split, index and seed, and no
scene depends on another.
"""

from training.scenes.captions import describe_scene
from training.scenes.chance import Chance
from training.scenes.dataset import SceneDataset, SceneExample
from training.scenes.rendering import render_scene
from training.scenes.sampling import described_scene, sample_scene
from training.scenes.scene import SCENES_VERSION, Background, Box, Group, Paint, Relation, Scene
from training.scenes.splits import SPLITS, combinations

__all__ = [
    "SCENES_VERSION",
    "SPLITS",
    "Background",
    "Box",
    "Chance",
    "Group",
    "Paint",
    "Relation",
    "Scene",
    "SceneDataset",
    "SceneExample",
    "combinations",
    "describe_scene",
    "described_scene",
    "render_scene",
    "sample_scene",
]
