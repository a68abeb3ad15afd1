"""The kinds of object and of background, and the words for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from training.scenes.scene import Box

FACING = ("facing {side}", "facing to the {side}", "turned to the {side}")


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        names: (singular, plural) pairs; the first is the plain name.
        aspect: Width over height.
        variants: One tuple of phrases for each form that the kind can take; each phrase fits one object or
            several.
        front: How to say which way it faces, with ``{side}`` for left or right; empty for kinds that look
            the same both ways.
        takes_pattern: Whether its main part is large enough to carry a pattern.
        is_support: Whether other objects can stand on its flat top.
        interior: The hole in which other objects fit, in units of its own box.
        can_rest: Whether it can stand on something.
        is_aerial: Whether it belongs in the sky where there is one.
    """

    names: tuple[tuple[str, str], ...]
    aspect: float
    variants: tuple[tuple[str, ...], ...]
    front: tuple[str, ...] = ()
    takes_pattern: bool = True
    is_support: bool = False
    interior: Box | None = None
    can_rest: bool = True
    is_aerial: bool = False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "house": Kind(
            (("house", "houses"), ("cottage", "cottages")),
            0.95,
            (
                ("with two windows and a door", "with a door between two windows"),
                ("with a chimney and a round window", "with a round window and a chimney on the roof"),
            ),
        ),
        "tree": Kind(
            (("tree", "trees"),),
            0.72,
            (
                ("with round foliage", "with a round leafy top"),
                ("with a pointed top in three tiers", "with three stacked triangles of leaves"),
            ),
        ),
        "car": Kind(
            (("car", "cars"), ("motor car", "motor cars")),
            1.75,
            (
                ("with a low rounded roof", "with a curved roof"),
                ("with a tall boxy cabin", "with a high square cabin"),
            ),
            front=FACING,
        ),
        "boat": Kind(
            (("boat", "boats"), ("sailboat", "sailboats")),
            0.95,
            (
                ("with one triangular sail", "with a single sail"),
                ("with two sails", "with a sail on each side of the mast"),
            ),
        ),
        "chair": Kind(
            (("chair", "chairs"),),
            0.62,
            (
                ("with a slatted back", "with bars in the back"),
                ("with a solid square back", "with a closed back"),
            ),
            front=FACING,
            takes_pattern=False,
        ),
        "table": Kind(
            (("table", "tables"),),
            1.6,
            (
                ("with two straight legs", "with a leg at either end"),
                ("with one leg in the middle", "with a central foot"),
            ),
            is_support=True,
            takes_pattern=False,
        ),
        "lamp": Kind(
            (("lamp", "lamps"), ("table lamp", "table lamps")),
            0.62,
            (
                ("with a cone-shaped shade", "with a wide slanted shade"),
                ("with a globe on its stem", "with a ball-shaped shade"),
            ),
        ),
        "cup": Kind(
            (("cup", "cups"), ("mug", "mugs")),
            1.15,
            (
                ("with a handle", "with one round handle"),
                ("with steam rising above", "with wisps of steam and a handle"),
            ),
            front=("with the handle to the {side}", "with the handle pointing {side}"),
        ),
        "bottle": Kind(
            (("bottle", "bottles"),),
            0.42,
            (
                ("with a label on the front", "with a square label"),
                ("with a bulging round belly", "with a wide round base"),
            ),
        ),
        "fish": Kind(
            (("fish", "fish"),),
            1.7,
            (
                ("with a forked tail", "with a tail split in two"),
                ("with a rounded fan tail", "with a tail like a fan"),
            ),
            front=FACING,
            can_rest=False,
        ),
        "bird": Kind(
            (("bird", "birds"),),
            1.15,
            (("with folded wings", "with wings held close"), ("with a raised wing", "with one wing lifted")),
            front=FACING,
            is_aerial=True,
        ),
        "flower": Kind(
            (("potted flower", "potted flowers"), ("flower in a pot", "flowers in pots")),
            0.6,
            (
                ("with round petals", "with petals all around"),
                ("with a tulip-shaped bloom", "with a bowl-shaped bloom"),
            ),
        ),
        "star": Kind(
            (("star", "stars"),),
            1.05,
            (("with five points", "with five sharp tips"), ("with eight points", "with eight short tips")),
            can_rest=False,
            is_aerial=True,
        ),
        "kite": Kind(
            (("kite", "kites"),),
            0.62,
            (
                ("with bows on the tail", "with little bows along the string"),
                ("with a wavy tail", "with a long curling tail"),
            ),
            can_rest=False,
            is_aerial=True,
        ),
        "clock": Kind(
            (("clock", "clocks"),),
            0.95,
            (("with two bells on top", "with a pair of bells"), ("in a square case", "with a square rim")),
        ),
        "book": Kind(
            (("book", "books"),),
            1.1,
            (
                ("lying open", "with both pages open"),
                ("with its cover closed", "shut, with a spine on the side"),
            ),
        ),
        "ladder": Kind(
            (("ladder", "ladders"),),
            0.42,
            (("with four rungs", "with four steps"), ("with seven narrow rungs", "with seven steps")),
            takes_pattern=False,
        ),
        "umbrella": Kind(
            (("umbrella", "umbrellas"), ("parasol", "parasols")),
            0.95,
            (
                ("with a hooked handle", "with a curved handle"),
                ("with a straight pole", "with a plain straight stick"),
            ),
            can_rest=False,
        ),
        "snowman": Kind(
            (("snowman", "snowmen"),),
            0.62,
            (
                ("with a tall hat", "with a top hat"),
                ("with a scarf and stick arms", "with a scarf and two twigs for arms"),
            ),
        ),
        "arrow": Kind(
            (("arrow", "arrows"),),
            1.0,
            (
                ("pointing right", "pointing to the right"),
                ("pointing left", "pointing to the left"),
                ("pointing up", "pointing upwards"),
                ("pointing down", "pointing downwards"),
            ),
            can_rest=False,
        ),
        "bicycle": Kind(
            (("bicycle", "bicycles"), ("bike", "bikes")),
            1.55,
            (
                ("with open wheels", "with two open wheels"),
                ("with a basket in front", "with a basket at the handlebar"),
            ),
            front=FACING,
            takes_pattern=False,
        ),
        "balloon": Kind(
            (("balloon", "balloons"),),
            0.6,
            (("on a string", "with a string hanging down"), ("carrying a basket", "with a basket below")),
            can_rest=False,
            is_aerial=True,
        ),
        "box": Kind(
            (("box", "boxes"), ("crate", "crates")),
            1.15,
            (
                ("with a ribbon around the middle", "tied with a ribbon"),
                ("with a lid", "with an overhanging lid"),
            ),
            is_support=True,
        ),
        "frame": Kind(
            (("picture frame", "picture frames"), ("square frame", "square frames")),
            1.0,
            (
                ("with a double edge", "with an inner and an outer edge"),
                ("with knobs at the corners", "with a knob at each corner"),
            ),
            takes_pattern=False,
            interior=Box(0.19, 0.19, 0.81, 0.81),
            can_rest=False,
        ),
        "ring": Kind(
            (("ring", "rings"), ("hoop", "hoops")),
            1.0,
            (("with a smooth rim", "with an even rim"), ("with a scalloped rim", "with a wavy rim")),
            takes_pattern=False,
            interior=Box(0.25, 0.25, 0.75, 0.75),
            can_rest=False,
        ),
        "mushroom": Kind(
            (("mushroom", "mushrooms"), ("toadstool", "toadstools")),
            0.95,
            (("with a domed cap", "with a tall round cap"), ("with a flat wide cap", "with a shallow cap")),
        ),
        "cactus": Kind(
            (("cactus", "cacti"),),
            0.72,
            (
                ("with two arms", "with an arm on each side"),
                ("shaped like a ball", "with a round ribbed body"),
            ),
        ),
        "stool": Kind(
            (("stool", "stools"),),
            0.95,
            (
                ("with splayed legs", "with slanting legs"),
                ("with a bar between the legs", "with upright legs and a bar"),
            ),
            is_support=True,
            takes_pattern=False,
        ),
        "crown": Kind(
            (("crown", "crowns"),),
            1.3,
            (("with three peaks", "with three tall peaks"), ("with five peaks", "with five small peaks")),
        ),
        "rocket": Kind(
            (("rocket", "rockets"),),
            0.6,
            (
                ("with one porthole", "with a single round window"),
                ("with two portholes", "with two round windows"),
            ),
            is_aerial=True,
        ),
    }
)

BACKGROUNDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "plain": (
            "a plain {paint} background",
            "an even {paint} backdrop",
            "a smooth {paint} ground without any marks",
        ),
        "gradient": (
            "a backdrop with a {paint} upper end that fades into a {second} lower end",
            "a soft gradient from a {paint} upper edge to a {second} lower edge",
        ),
        "horizon": (
            "flat {second} ground under a {paint} sky",
            "a level {second} field that meets a {paint} sky",
            "a straight horizon between {second} ground and {paint} sky",
        ),
        "hills": (
            "rolling {second} hills under a {paint} sky",
            "{second} hills with curved tops beneath a {paint} sky",
        ),
        "tiles": (
            "a wall of square {paint} tiles",
            "a {paint} tiled wall with a grid of joints",
        ),
        "speckled": (
            "a speckled {paint} background",
            "a {paint} surface full of tiny speckles",
        ),
        "room": (
            "a room with a {paint} wall and a {second} floor",
            "a {paint} wall above a {second} floor of boards",
        ),
        "waves": (
            "{second} water with rows of waves under a {paint} sky",
            "a {second} sea of curling waves beneath a {paint} sky",
        ),
    }
)

OUTDOOR_BACKGROUNDS = frozenset({"horizon", "hills", "waves"})

COUNTS: tuple[str, ...] = ("no", "one", "two", "three", "four", "five")
