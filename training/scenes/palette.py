"""The named colours, and how near to its name a colour stays."""

import colorsys
from collections.abc import Mapping
from types import MappingProxyType

from training.scenes.chance import Chance
from training.scenes.scene import RGB, Paint

COLOURS: Mapping[str, RGB] = MappingProxyType(
    {
        "red": (216, 70, 62),
        "orange": (240, 142, 62),
        "yellow": (248, 208, 86),
        "green": (98, 166, 92),
        "teal": (46, 138, 136),
        "blue": (72, 126, 204),
        "purple": (136, 98, 186),
        "pink": (242, 148, 178),
        "brown": (150, 104, 74),
        "white": (250, 248, 242),
        "grey": (152, 156, 164),
        "black": (82, 80, 92),
        "navy": (54, 76, 138),
        "turquoise": (94, 202, 200),
    }
)

SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "red": ("red", "red", "scarlet", "crimson"),
        "yellow": ("yellow", "yellow", "golden"),
        "purple": ("purple", "purple", "violet"),
        "grey": ("grey", "gray"),
    }
)

BACKDROPS: Mapping[str, RGB] = MappingProxyType(
    {
        "pale blue": (202, 226, 242),
        "pale beige": (251, 241, 220),
        "pale green": (208, 232, 208),
        "pale pink": (250, 220, 224),
        "pale purple": (222, 212, 240),
        "light grey": (224, 227, 231),
        "pale orange": (252, 220, 190),
        "pale yellow": (253, 242, 192),
        "dusty blue": (152, 184, 210),
        "soft green": (168, 204, 166),
        "dark blue": (58, 76, 122),
        "dark grey": (88, 92, 104),
    }
)

GROUNDS: Mapping[str, RGB] = MappingProxyType(
    {
        "green": (138, 188, 112),
        "beige": (234, 212, 164),
        "brown": (178, 140, 104),
        "grey": (176, 180, 188),
        "white": (246, 248, 252),
        "yellow": (240, 214, 120),
        "dark green": (84, 134, 92),
        "blue": (104, 160, 206),
    }
)


def luminance(rgb: RGB) -> float:
    """Rec. 601 luma in 0 … 255, the grey value that edge detectors see."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def jittered(name: str, rgb: RGB, chance: Chance) -> Paint:
    """The named colour, moved a little in hue, saturation and value."""
    hue, saturation, value = colorsys.rgb_to_hsv(rgb[0] / 255, rgb[1] / 255, rgb[2] / 255)
    hue = (hue + chance.uniform(-0.012, 0.012)) % 1.0
    saturation = min(1.0, saturation * chance.uniform(0.9, 1.1))
    value = min(1.0, value * chance.uniform(0.95, 1.05))
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return Paint(name, (round(red * 255), round(green * 255), round(blue * 255)))


def contrasting_names(rgb: RGB, minimum: float = 70.0) -> list[str]:
    """Colours whose luma differs enough for a pattern of the two to survive as edges."""
    return [name for name, other in COLOURS.items() if abs(luminance(other) - luminance(rgb)) >= minimum]
