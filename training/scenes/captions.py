"""Long captions, told in many ways, in which every statement is true of the scene."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from training.scenes.chance import Chance
from training.scenes.palette import SYNONYMS
from training.scenes.scene import Group, Relation, Scene
from training.scenes.vocabulary import BACKGROUNDS, COUNTS, KINDS

MIN_WORDS = 40
MAX_WORDS = 120
LARGER_BY = 1.8
"""Ratio of areas from which one object is called larger than another."""

_SIZES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"small": ("small", "little"), "medium": ("medium-sized", "middle-sized"), "large": ("large", "big")}
)
_PATTERNS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "striped": (
            ("vertically striped", "upright-striped"),
            ("vertical stripes", "stripes running up and down"),
        ),
        "banded": (("horizontally striped", "banded"), ("horizontal stripes", "bands running across")),
        "dotted": (("dotted", "spotted", "polka-dotted"), ("dots", "round spots", "polka dots")),
        "checkered": (("checkered", "chequered"), ("checks", "a checkered pattern")),
    }
)
_ARRANGEMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "row": ("in a row", "side by side", "in a horizontal line"),
        "column": ("in a column", "one above the other", "in a vertical line"),
        "triangle": ("in a triangle, one above two", "arranged as a triangle with one on top"),
        "square": ("in a square, two above two", "arranged in two rows of two"),
        "rows": ("in two rows, two above three", "stacked with two above three"),
        "around": ("one on each of four sides", "spread out on four sides"),
    }
)
_POSITIONS: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType(
    {
        ("top", "left"): ("in the top left", "in the upper left part", "at the upper left"),
        ("top", "centre"): (
            "at the top in the middle",
            "in the upper middle",
            "near the top, halfway across",
        ),
        ("top", "right"): ("in the top right", "in the upper right part", "at the upper right"),
        ("middle", "left"): ("on the left side", "at the left, halfway up", "in the middle of the left side"),
        ("middle", "centre"): ("in the centre", "in the very middle", "near the centre of the picture"),
        ("middle", "right"): (
            "on the right side",
            "at the right, halfway up",
            "in the middle of the right side",
        ),
        ("bottom", "left"): ("in the bottom left", "in the lower left part", "at the lower left"),
        ("bottom", "centre"): (
            "at the bottom in the middle",
            "in the lower middle",
            "near the bottom, halfway across",
        ),
        ("bottom", "right"): ("in the bottom right", "in the lower right part", "at the lower right"),
    }
)
_RELATIONS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "left_of": (
            ("to the left of {known}", "left of {known}"),
            ("to the right of {known}", "right of {known}"),
        ),
        "above": (("above {known}", "higher up than {known}"), ("below {known}", "lower down than {known}")),
        "on": (
            ("on top of {known}", "on the upper edge of {known}"),
            ("underneath {known}", "below {known}, carrying {them}"),
        ),
        "inside": (
            ("inside {known}", "within the opening of {known}"),
            ("enclosing {known}", "around {known}, enclosing {them}"),
        ),
        "around": (
            ("around {known}", "on all four sides of {known}"),
            ("in the middle of {known}", "surrounded by {known}"),
        ),
        "in_front_of": (
            ("in front of {known}", "in front of {known}, hiding part of {them}"),
            ("behind {known}", "behind {known}, partly hidden by {them}"),
        ),
    }
)
_OPENINGS = (
    "This is a drawing of {things}.",
    "The picture shows {things}.",
    "An illustration with {things}.",
    "A colourful picture of {things}.",
    "We see {things} in this drawing.",
    "{Things} can be seen here.",
)
_BACKGROUND_SENTENCES = (
    "The background is {it}.",
    "Behind everything lies {it}.",
    "All of it is set against {it}.",
    "The whole scene has {it} as its backdrop.",
    "In the background we see {it}.",
)
_COMPOUNDS = frozenset(
    {
        "black bird",
        "black birds",
        "blue bird",
        "blue birds",
        "black box",
        "black boxes",
        "white house",
        "white houses",
        "green house",
    }
    | {"green houses", "orange tree", "orange trees", "orange crate", "orange crates", "golden fish"}
)
"""Colours and nouns that together name something else, so that readers and caption filters would err."""


def describe_scene(scene: Scene, chance: Chance) -> str:
    """A caption of 40 to 120 words.

    Args:
        scene: What to tell of.
        chance: Chooses what is said first, in which words, and which details are left out.

    Returns:
        English sentences. Kind, number, arrangement and pattern of every group are always told.
    """
    first = chance.pick((1.0, 0.85, 0.7))
    for detail in (first, 0.5, 0.25, 0.0):
        text = _Teller(scene, chance, detail).tell()
        if len(text.split()) <= MAX_WORDS:
            return text
    raise AssertionError(f"a caption of more than {MAX_WORDS} words: {text}")


def phrase_of(scene: Scene, place: int, chance: Chance) -> str:
    """A few words that name one group: in full as captions do, or in short as one would search for it.

    Args:
        scene: What the group belongs to.
        place: Which group.
        chance: Chooses the words.
    """
    teller = _Teller(scene, chance, chance.pick((1.0, 0.5, 0.0)))
    return teller.phrase(place) if chance.happens(0.5) else teller.short_phrase(place)


class _Teller:
    """One telling of one scene: keeps what has been said, so that nothing is said twice.

    Args:
        scene: What to tell of.
        chance: Chooses.
        detail: 0 … 1, how much of what may be left out is told.
    """

    def __init__(self, scene: Scene, chance: Chance, detail: float) -> None:
        self.scene = scene
        self.chance = chance
        self.detail = detail
        self.told: list[set[str]] = [set() for _ in scene.groups]
        self.introduced: list[int] = []
        self.told_relations: set[Relation] = set()
        self.names = [
            chance.pick(KINDS[group.kind].names) if chance.happens(0.4) else KINDS[group.kind].names[0]
            for group in scene.groups
        ]
        self.colours = [chance.pick(SYNONYMS.get(group.paint.name, (group.paint.name,))) for group in scene.groups]

    def tell(self) -> str:
        """The whole caption."""
        sentences = [self._opening()] if self.chance.happens(0.3 + 0.4 * self.detail) else []
        background = self._background()
        if self.chance.happens(0.25):
            sentences.append(background)
            background = ""
        sentences += [self._introduction(i) for i in self._order()]
        sentences += self._further(sum(len(sentence.split()) for sentence in (*sentences, background)))
        if background:
            sentences.append(background)
        return " ".join(sentences)

    def _likes(self, probability: float) -> bool:
        return self.chance.happens(probability * self.detail)

    def _order(self) -> list[int]:
        """A random order in which the two groups of a motif follow each other."""
        order: list[int] = []
        for i in self.chance.shuffled(range(len(self.scene.groups))):
            if i not in order:
                order += [i, *(j for j in self._partners(i) if j not in order)]
        return order

    def _partners(self, i: int) -> list[int]:
        special = [r for r in self.scene.relations if r.name not in ("left_of", "above", "between")]
        return [r.objects[0] if r.subject == i else r.subject for r in special if i in (r.subject, *r.objects)]

    # Openings

    def _opening(self) -> str:
        number = len(self.scene.groups)
        total = sum(group.count for group in self.scene.groups)
        is_single = total == number
        things = self.chance.pick(
            (
                f"{COUNTS[number]} {'objects' if is_single else 'kinds of object'}",
                f"{COUNTS[number]} different {'things' if is_single else 'groups of things'}",
            )
        )
        template = self.chance.pick(_OPENINGS)
        return template.format(things=things, Things=_capital(things))

    def _background(self) -> str:
        background = self.scene.background
        phrase = self.chance.pick(BACKGROUNDS[background.kind])
        phrase = phrase.format(paint=background.paint.name, second=background.second.name)
        sentences = [text for text in _BACKGROUND_SENTENCES if not _repeats(phrase, text)]
        return self.chance.pick(sentences).format(it=phrase)

    # The sentence in which a group is first named

    def _introduction(self, i: int) -> str:
        place = self._place(i)
        self.introduced.append(i)
        phrase, is_plural = self._noun_phrase(i)
        be = "are" if is_plural else "is"
        if self.chance.happens(0.55):
            verb = self.chance.pick(("there {be}", "we see", "you can see", "one finds")).format(be=be)
            return f"{_capital(place)}{',' if ',' in place or verb != f'there {be}' else ''} {verb} {phrase}."
        comma = "," if "," in phrase else ""
        verb = self.chance.pick((be, "appear" if is_plural else "appears", f"{be} shown", f"{be} placed"))
        return f"{_capital(phrase)}{comma} {verb} {place}."

    def _place(self, i: int) -> str:
        """Where the group is: in relation to one named before, by its place in the picture, or both."""
        relation = self._relation_to_known(i)
        position = self.chance.pick(_POSITIONS[self.scene.groups[i].position])
        if relation is None:
            self.told[i].add("position")
            return position
        self.told_relations.add(relation)
        phrase = self._relation_phrase(relation, i)
        if "," not in phrase and self._likes(0.45):
            self.told[i].add("position")
            return f"{position}, {phrase}" if "," not in position else phrase
        return phrase

    def _relation_to_known(self, i: int) -> Relation | None:
        known = [r for r in self.scene.relations if r.name != "between" and _other(r, i) in self.introduced]
        special = [r for r in known if r.name not in ("left_of", "above")]
        if special:
            return self.chance.pick(special)
        return self.chance.pick(known) if known and self.chance.happens(0.5) else None

    def _relation_phrase(self, relation: Relation, i: int) -> str:
        """The place of group ``i``, which is one side of the relation, as seen from the other side."""
        forward, backward = _RELATIONS[relation.name]
        known = _other(relation, i)
        assert known is not None
        options = forward if relation.subject == i else backward
        return self.chance.pick(options).format(known=self._definite(known), them=self._them(known))

    # Names of groups

    def _noun_phrase(self, i: int) -> tuple[str, bool]:
        """The group with its looks, for its first mention, and whether its verb is plural."""
        group, told = self.scene.groups[i], self.told[i]
        noun = self.names[i][group.count > 1]
        adjectives, ending = self._looks(group, i, noun)
        words = " ".join((*adjectives, noun))
        is_plural = group.count > 1
        if group.count == 1:
            phrase = _with_article(words)
        else:
            phrase, is_plural = self._several(group, words)
        told.update(("colour", "pattern", "arrangement"))
        tail = [ending] if ending else []
        if not ending and (self._likes(0.6) or group.kind == "arrow"):
            told.add("variant")
            tail.append(self.chance.pick(KINDS[group.kind].variants[group.variant]))
        elif group.facing != "none" and self._likes(0.6):
            told.add("facing")
            tail.append(self._facing(group))
        if not tail:
            return phrase, is_plural
        return (f"{phrase}, each {tail[0]}" if group.count > 1 else f"{phrase} {tail[0]}"), is_plural

    def _several(self, group: Group, words: str) -> tuple[str, bool]:
        number = COUNTS[group.count]
        if group.arrangement in ("row", "column") and self.chance.happens(0.35):
            return f"a {group.arrangement} of {number} {words}", False
        return f"{number} {words} {self.chance.pick(_ARRANGEMENTS[group.arrangement])}", True

    def _looks(self, group: Group, i: int, noun: str) -> tuple[list[str], str]:
        """Adjectives before the noun, and a phrase that follows it or nothing."""
        adjectives = []
        if self._likes(0.85 if group.size != "medium" else 0.35):
            self.told[i].add("size")
            adjectives.append(self.chance.pick(_SIZES[group.size]))
        if self._likes(0.4 if group.finish == "glossy" else 0.1):
            self.told[i].add("finish")
            adjectives.append(self.chance.pick(("glossy", "shiny")) if group.finish == "glossy" else "matte")
        colour = self.colours[i]
        if group.pattern == "plain":
            return self._plain_looks(group, i, adjectives, colour, noun)
        before, after = _PATTERNS[group.pattern]
        if self.chance.happens(0.55):
            return [*adjectives, f"{colour} and {group.second.name} {self.chance.pick(before)}"], ""
        pattern = self.chance.pick(after)
        ending = (
            f"with {group.second.name} {pattern}"
            if not pattern.startswith("a ")
            else f"with {pattern} in {group.second.name}"
        )
        if f"{colour} {noun}" in _COMPOUNDS:
            return adjectives, f"in {colour} {ending}"
        return [*adjectives, colour], ending

    def _plain_looks(
        self, group: Group, i: int, adjectives: list[str], colour: str, noun: str
    ) -> tuple[list[str], str]:
        if group.fill == "hollow":
            self.told[i].add("fill")
            drawing = (f"drawn only in {colour} outline", f"shown as {_with_article(colour)} line drawing")
            return adjectives, self.chance.pick(drawing)
        if f"{colour} {noun}" in _COMPOUNDS:
            return adjectives, f"in {colour}"
        return [*adjectives, colour], ""

    def _definite(self, i: int) -> str:
        """The group when it has been named before: *the house*, *the three red cups*."""
        group = self.scene.groups[i]
        noun = self.names[i][group.count > 1]
        words = [COUNTS[group.count]] if group.count > 1 and self.chance.happens(0.6) else []
        if group.fill == "solid" and self._likes(0.25) and f"{self.colours[i]} {noun}" not in _COMPOUNDS:
            words.append(self.colours[i])
        return " ".join(("the", *words, noun))

    def _them(self, i: int) -> str:
        return "them" if self.scene.groups[i].count > 1 else "it"

    def _facing(self, group: Group) -> str:
        return self.chance.pick(KINDS[group.kind].front).format(side=group.facing)

    def phrase(self, i: int) -> str:
        """A group as it is first named."""
        return self._noun_phrase(i)[0]

    def short_phrase(self, i: int) -> str:
        """Its pattern, colour and kind; sometimes one of the first two, or its number, is left out."""
        group = self.scene.groups[i]
        words = []
        if group.pattern != "plain" and self.chance.happens(0.8):
            words.append(self.chance.pick((group.pattern, *_PATTERNS[group.pattern][0])))
        if not words or self.chance.happens(0.8):
            words.append(self.colours[i])
        told = " ".join((*words, self.names[i][group.count > 1]))
        if group.count > 1:
            return f"{COUNTS[group.count]} {told}" if self.chance.happens(0.5) else told
        return _with_article(told) if self.chance.happens(0.8) else told

    # What else can be said

    def _further(self, num_words: int) -> list[str]:
        """Untold facts in a random order, until the caption has its length."""
        wanted = max(MIN_WORDS + 3, round(self.chance.uniform(46, 104) * min(1.0, 0.4 + 0.6 * self.detail)))
        sentences: list[str] = []
        positions = [self._position_fact(i) for i in range(len(self.scene.groups)) if "position" not in self.told[i]]
        for make in (*self.chance.shuffled(positions), *self.chance.shuffled(self._other_facts())):
            if num_words >= wanted:
                break
            sentence = make()
            if num_words + len(sentence.split()) <= MAX_WORDS - 1:
                sentences.append(sentence)
                num_words += len(sentence.split())
        return sentences

    def _position_fact(self, i: int) -> Callable[[], str]:
        def say() -> str:
            position = self.chance.pick(_POSITIONS[self.scene.groups[i].position])
            return f"{_capital(self._definite(i))} {self._verb(i)} {position}."

        return say

    def _verb(self, i: int) -> str:
        return self.chance.pick(("are", "lie") if self.scene.groups[i].count > 1 else ("is", "lies"))

    def _other_facts(self) -> list[Callable[[], str]]:
        facts: list[Callable[[], str]] = [
            self._relation_fact(relation) for relation in self.scene.relations if relation not in self.told_relations
        ]
        for i, group in enumerate(self.scene.groups):
            facts += self._group_facts(i, group)
            facts += [
                self._size_fact(i, j)
                for j, other in enumerate(self.scene.groups)
                if _area(group) > LARGER_BY * _area(other)
            ][:1]
        return facts

    def _group_facts(self, i: int, group: Group) -> list[Callable[[], str]]:
        told, is_many = self.told[i], group.count > 1
        be = "are" if is_many else "is"
        each = "Each of " if is_many else ""
        facts: list[Callable[[], str]] = []
        if "variant" not in told:
            phrase = self.chance.pick(KINDS[group.kind].variants[group.variant])
            facts.append(lambda: _capital(f"{each}{self._definite(i)} is {_predicate(phrase)}."))
        if group.facing != "none" and "facing" not in told:
            facts.append(lambda: _capital(f"{self._definite(i)} {be} {_predicate(self._facing(group))}."))
        if "size" not in told:
            facts.append(lambda: _capital(f"{self._definite(i)} {be} {self.chance.pick(_SIZES[group.size])}."))
        if group.outline == "bold":
            facts.append(lambda: _capital(f"{self._definite(i)} {'have' if is_many else 'has'} a bold outline."))
        if group.fill == "solid" and "finish" not in told:
            surface = "glossy" if group.finish == "glossy" else "matte"
            facts.append(lambda: f"The surface of {self._definite(i)} looks {surface}.")
        return facts

    def _relation_fact(self, relation: Relation) -> Callable[[], str]:
        def say() -> str:
            i = relation.subject
            if relation.name == "between":
                first, second = self.chance.shuffled(relation.objects)
                middle = f"between {self._definite(first)} and {self._definite(second)}"
                return f"{_capital(self._definite(i))} {self._verb(i)} {middle}."
            if self.chance.happens(0.5):
                i = relation.objects[0]
            return f"{_capital(self._definite(i))} {self._verb(i)} {self._relation_phrase(relation, i)}."

        return say

    def _size_fact(self, i: int, j: int) -> Callable[[], str]:
        def say() -> str:
            if self.chance.happens(0.5):
                be = "are" if self.scene.groups[i].count > 1 else "is"
                return f"{_capital(self._definite(i))} {be} larger than {self._definite(j)}."
            be = "are" if self.scene.groups[j].count > 1 else "is"
            return f"{_capital(self._definite(j))} {be} smaller than {self._definite(i)}."

        return say


def _other(relation: Relation, i: int) -> int | None:
    """The other side of a relation of two groups, or ``None`` where group ``i`` is not part of it."""
    if relation.subject == i:
        return relation.objects[0]
    return relation.subject if i in relation.objects else None


def _area(group: Group) -> float:
    return group.boxes[0].area


def _repeats(phrase: str, sentence: str) -> bool:
    return any(word in phrase and word in sentence for word in ("background", "backdrop"))


def _predicate(phrase: str) -> str:
    """A phrase that follows a noun, made to follow *is*: *with a lid* becomes *shown with a lid*."""
    return f"shown {phrase}" if phrase.startswith(("with", "in", "on", "carrying")) else phrase


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
