"""The four kinds of source: manifest, folder, shards, and rendered scenes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.config import SourceConfig
from training.data.records import DataError, Fault, PairSource, RawPair
from training.scenes import SCENES_VERSION, SceneDataset

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
READ_ERRORS = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


def open_source(config: SourceConfig, *, image_size: int) -> PairSource:
    """Open the source that a configuration names.

    Args:
        config: Which kind, and where.
        image_size: Side of rendered scenes, in pixels; other sources keep their own sizes.

    Raises:
        DataError: If it cannot be read at all, or holds no record.
    """
    if config.kind == "scenes":
        return ScenesSource(config, image_size)
    lister = {"manifest": _list_manifest, "folder": _list_folder, "shards": _list_shards}[config.kind]
    found = _merged(_chosen(lister(config), config))
    records = found.records[: config.limit]
    if not records:
        told = f" ({len(found.faults)} faulty records were found)" if found.faults else ""
        raise DataError(f"{config.path}: no record is left to use{told}; check path, split and starts_with")
    return FileSource(tuple(records), tuple(found.faults))


@dataclass(frozen=True)
class Place:
    """Where a picture's bytes are: a whole file, or a stretch of an archive."""

    path: str
    offset: int = 0
    num_bytes: int | None = None

    def read_bytes(self) -> bytes:
        """Read them, from the disk or through fsspec.

        Raises:
            OSError: If they are not there.
        """
        if self.num_bytes is None:
            return Path(self.path).read_bytes()
        with fsspec.open(self.path, "rb") as file:
            file.seek(self.offset)
            content: bytes = file.read(self.num_bytes)
        return content


@dataclass(frozen=True)
class Record:
    """One picture of a file source with its captions."""

    key: str
    place: Place
    captions: tuple[str, ...]
    boxes: tuple[tuple[float, ...], ...] | None = None


@dataclass
class _Listing:
    records: list[Record] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class FileSource:
    """Records whose pictures are files, or stretches of tar files."""

    def __init__(self, records: tuple[Record, ...], faults: tuple[Fault, ...] = ()) -> None:
        self._records = records
        self._faults = faults

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Records that could not even be listed."""
        return self._faults

    @property
    def digest(self) -> str:
        """SHA-256 of names, sizes unknown, and captions."""
        told = json.dumps([[record.key, record.captions] for record in self._records], ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def key(self, index: int) -> str:
        """The picture's name."""
        return self._records[index].key

    def captions(self, index: int, epoch: int = 0) -> tuple[str, ...]:
        """All captions, the same in every epoch."""
        return self._records[index].captions

    def read(self, index: int, epoch: int = 0) -> RawPair:
        """Decode the picture."""
        record = self._records[index]
        try:
            rgb = decode_picture(record.place.read_bytes())
        except READ_ERRORS as error:
            raise DataError(
                f"{record.key}: the picture cannot be read ({error}); repair or remove the record"
            ) from error
        boxes = None if record.boxes is None else np.array(record.boxes, dtype=np.float32)
        return RawPair(record.key, rgb, record.captions, boxes)

    def check(self, index: int, *, decode: bool) -> Fault | None:
        """Look for a missing or unreadable picture, or captions without a visible character."""
        record = self._records[index]
        if not any(caption.strip() for caption in record.captions):
            return Fault("empty", record.key, "there is no caption")
        try:
            content = record.place.read_bytes()
        except FileNotFoundError:
            return Fault("missing", record.key, f"{record.place.path} is not there")
        except OSError as error:
            return Fault("unreadable", record.key, str(error))
        try:
            if decode:
                decode_picture(content)
            else:
                Image.open(io.BytesIO(content)).close()
        except READ_ERRORS as error:
            return Fault("unreadable", record.key, str(error))
        return None

    def without(self, indices: Iterable[int]) -> FileSource:
        """Return a source that lacks some of the records."""
        dropped = set(indices)
        return FileSource(tuple(r for i, r in enumerate(self._records) if i not in dropped), self._faults)

    def picture_digest(self, index: int) -> str:
        """SHA-256 of the picture's bytes."""
        return hashlib.sha256(self._records[index].place.read_bytes()).hexdigest()


class ScenesSource:
    """Rendered scenes: nothing is read, every epoch tells of the same pictures in other words.

    Parts come after the scenes: number ``num_scenes + i`` is a part of scene ``i``, another one in every epoch.
    """

    faults: tuple[Fault, ...] = ()

    def __init__(self, config: SourceConfig, image_size: int) -> None:
        number = min(config.num_scenes, config.limit or config.num_scenes)
        self._scenes = SceneDataset(config.split, number, seed=config.scenes_seed, size=image_size)
        self._num_parts = config.num_parts
        self._gives_boxes = config.boxes_field != ""

    @property
    def digest(self) -> str:
        """Names the data set: its version, split, number and seed are all of it."""
        scenes = self._scenes
        parts = f":{self._num_parts} parts" if self._num_parts else ""
        return f"scenes-{SCENES_VERSION}:{scenes.split}:{len(scenes)}:{scenes.seed}{parts}"

    def __len__(self) -> int:
        return len(self._scenes) + self._num_parts

    def key(self, index: int) -> str:
        """Split and place in it."""
        part = index - len(self._scenes)
        return f"{self._scenes.split}/{index:06d}" if part < 0 else f"{self._scenes.split}/part/{part:06d}"

    def captions(self, index: int, epoch: int = 0) -> tuple[str, ...]:
        """One caption; the epoch chooses the phrasing."""
        part = index - len(self._scenes)
        if part < 0:
            return (self._scenes.caption(index, phrasing=epoch),)
        return (self._scenes.part_phrase(part, epoch),)

    def read(self, index: int, epoch: int = 0) -> RawPair:
        """Render the scene, or a part of one."""
        part = index - len(self._scenes)
        if part < 0:
            example = self._scenes[index]
            rgb, boxes, captions = example.rgb, example.boxes, self.captions(index, epoch)
        else:
            cut = self._scenes.part(part, epoch)
            rgb, boxes, captions = cut.rgb, cut.box, (cut.phrase,)
        return RawPair(self.key(index), rgb, captions, boxes if self._gives_boxes else None)

    def check(self, index: int, *, decode: bool) -> Fault | None:
        """Find nothing: what is rendered can be neither missing nor damaged."""
        return None


def decode_picture(content: bytes) -> NDArray[np.uint8]:
    """Decode a whole picture to uint8 `(H, W, 3)`, upright; what is transparent becomes white.

    Raises:
        OSError: If it is cut short or no picture.
    """
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        upright: Image.Image = picture if picture.getexif().get(0x0112, 1) == 1 else _turned(picture)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            seen = upright.convert("RGBA")
            ground = Image.new("RGBA", seen.size, "white")
            upright = Image.alpha_composite(ground, seen)
        return np.asarray(upright.convert("RGB"))


def _turned(picture: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)


# A listing yields one entry for each line, file or tar member: a record, or what is wrong with it.
_Entry = tuple[Record | Fault, Mapping[str, Any]]


def _list_manifest(config: SourceConfig) -> Iterator[_Entry]:
    path = Path(config.path)
    if not path.is_file():
        raise DataError(f"there is no manifest at {path}")
    root = Path(config.image_root) if config.image_root else path.parent
    for place, row in _rows(path):
        if isinstance(row, Fault):
            yield row, {}
            continue
        name, captions = row.get(config.image_field), _texts(row.get(config.caption_field))
        if not isinstance(name, str) or not name or captions is None:
            missing = config.image_field if not isinstance(name, str) or not name else config.caption_field
            yield Fault("malformed", place, f"has no {missing!r}; it has {sorted(row)}"), row
            continue
        boxes = _boxes(row.get(config.boxes_field) if config.boxes_field else None)
        yield Record(name, Place(str(root / name)), captions, boxes), row


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | Fault]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".csv":
            yield from ((f"line {number}", row) for number, row in enumerate(csv.DictReader(file), start=2))
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                yield place, Fault("malformed", place, f"is not JSON: {error}")
                continue
            yield place, row if isinstance(row, dict) else Fault("malformed", place, "is not a JSON object")


def _texts(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    return None


def _boxes(value: Any) -> tuple[tuple[float, ...], ...] | None:
    if not value:
        return None
    rows = json.loads(value) if isinstance(value, str) else value
    return tuple(tuple(float(number) for number in row) for row in rows)


def _list_folder(config: SourceConfig) -> Iterator[_Entry]:
    folder = Path(config.path)
    if not folder.is_dir():
        raise DataError(f"there is no folder at {folder}")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in PICTURE_ENDINGS:
            continue
        name = path.relative_to(folder).as_posix()
        text = path.with_suffix(".txt")
        if not text.is_file():
            yield Fault("empty", name, f"{text.name} is not there"), {}
            continue
        captions = tuple(line for line in text.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        yield Record(name, Place(str(path)), captions), {}


def _list_shards(config: SourceConfig) -> Iterator[_Entry]:
    shards = sorted(file.full_name for file in fsspec.open_files(_expanded(config.path), "rb"))
    if not shards:
        raise DataError(f"no shard matches {config.path}")
    for shard in shards:
        yield from _list_shard(shard, config)


def _expanded(path: str) -> list[str]:
    """Return the shards of `name-{000..009}.tar`, or the path itself, whose `*` fsspec expands."""
    before, opening, rest = path.partition("{")
    span, closing, after = rest.partition("}")
    first, dots, last = span.partition("..")
    if not (opening and closing and dots and first.isdigit() and last.isdigit()):
        return [path]
    return [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]


def _list_shard(shard: str, config: SourceConfig) -> Iterator[_Entry]:
    """Group the members of a tar file by their name up to the first dot, as WebDataset does."""
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with fsspec.open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    stem, ending = _split_name(member.name)
                    groups.setdefault(stem, {})[ending] = member
            for stem, members in groups.items():
                yield _shard_record(shard, stem, members, archive, config), {}
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"the shard {shard} cannot be read: {error}") from error


def _split_name(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.parent / stem), "." + ending.lower()


def _shard_record(
    shard: str, stem: str, members: Mapping[str, tarfile.TarInfo], archive: tarfile.TarFile, config: SourceConfig
) -> Record | Fault:
    key = f"{PurePosixPath(shard).name}/{stem}"
    picture = next((members[ending] for ending in PICTURE_ENDINGS if ending in members), None)
    if picture is None:
        return Fault("missing", key, f"has only {', '.join(sorted(members))}")
    place = Place(shard, picture.offset_data, picture.size)
    boxes = None
    if ".json" in members:
        try:
            row = json.loads(_content(archive, members[".json"]))
        except ValueError as error:
            return Fault("malformed", key, f"its .json cannot be read: {error}")
        captions = _texts(row.get(config.caption_field)) if isinstance(row, dict) else None
        boxes = _boxes(row.get(config.boxes_field)) if isinstance(row, dict) and config.boxes_field else None
    else:
        captions = None
    if captions is None and ".txt" in members:
        text = _content(archive, members[".txt"]).decode("utf-8", errors="replace")
        captions = tuple(line for line in text.splitlines() if line.strip())
    if captions is None:
        return Fault("empty", key, f"has neither .txt nor a .json with {config.caption_field!r}")
    return Record(key, place, captions, boxes)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b""


def _chosen(entries: Iterator[_Entry], config: SourceConfig) -> Iterator[Record | Fault]:
    for entry, row in entries:
        if isinstance(entry, Fault) or _is_chosen(entry, row, config):
            yield entry


def _is_chosen(record: Record, row: Mapping[str, Any], config: SourceConfig) -> bool:
    if config.kind == "manifest" and config.split and row.get("split") != config.split:
        return False
    return PurePosixPath(record.key).name.startswith(config.starts_with)


def _merged(entries: Iterable[Record | Fault]) -> _Listing:
    """Put the captions of one picture together: two records of one picture would be each other's negatives."""
    found = _Listing()
    place: dict[str, int] = {}
    for entry in entries:
        if isinstance(entry, Fault):
            found.faults.append(entry)
        elif entry.key not in place:
            place[entry.key] = len(found.records)
            found.records.append(entry)
        else:
            known = found.records[place[entry.key]]
            fresh = tuple(caption for caption in entry.captions if caption not in known.captions)
            if not fresh:
                found.faults.append(Fault("duplicate", entry.key, "the same picture with the same caption"))
            found.records[place[entry.key]] = Record(known.key, known.place, known.captions + fresh, known.boxes)
    return found
