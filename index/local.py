"""A collection in one folder, for one process: SQLite catalogue, FAISS engine, folder of originals.

    directory/
    ├── lock                   held while the collection is open; names the process
    ├── catalogue.sqlite       the source of truth
    ├── originals/ab/abcdef…   the files, each kept once
    └── snapshots/             of the engine; derived, may be deleted at any time

A write goes: originals to disk, row committed and flushed, engine, answer. So what was answered survives a
crash, and is found by the next search.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from index.allowed import FilterMemory
from index.backup import write_backup
from index.catalogue import Catalogue, CatalogueReader, StoredImage
from index.catalogue_file import CATALOGUE_NAME
from index.catalogue_writes import CatalogueTransaction, VectorChange
from index.checks import check_images, check_limit, check_query, check_text, encode_metadata
from index.collection import (
    AddOutcome,
    CollectionStatus,
    ImageRecord,
    Metadata,
    NewImage,
    Page,
    SearchHit,
    StoredVectors,
    Vector,
)
from index.cursors import (
    SearchPosition,
    list_cursor,
    list_question,
    read_list_cursor,
    read_search_cursor,
    search_cursor,
    search_question,
)
from index.engine_choice import Machine, look_at_machine
from index.errors import (
    CollectionClosedError,
    CollectionError,
    FingerprintMismatchError,
    NotReadyError,
    StorageError,
    storage_error,
)
from index.filters import Filter
from index.live_index import LiveIndex
from index.locking import LOCK_NAME, FolderLock
from index.maintenance import Maintenance
from index.metadata_summary import MAX_PICTURES, FieldSummary
from index.originals import Originals
from index.search import SearchPolicy, SearchRequest, find_hits
from index.settings import LocalSettings
from index.snapshots import SnapshotFolder
from index.writer import Writer

_logger = logging.getLogger(__name__)


class LocalCollection:
    """Pictures in a folder; see `index.collection.Collection` for what it does, `open` for how to get one."""

    def __init__(self, directory: Path, catalogue: Catalogue, settings: LocalSettings, machine: Machine) -> None:
        self._directory = directory
        self._catalogue = catalogue
        self._policy = SearchPolicy(settings.over_fetch, settings.exact_filter_limit)
        self._filters = FilterMemory(2 * catalogue.dimension)
        self._resources = ExitStack()
        self._is_closed = False
        with catalogue.read() as reader:
            self._num_images_at_open = reader.count()
        self._originals = Originals(directory / "originals")
        self._snapshots = SnapshotFolder(directory / "snapshots", settings.num_snapshots)
        self._live = LiveIndex(catalogue)
        self._maintenance = Maintenance(
            catalogue,
            self._live,
            self._filters,
            self._snapshots,
            settings,
            machine,
            self._prune_log,
            self._collect_orphans,
        )
        self._writer = Writer(
            catalogue.writer, catalogue.fingerprint_key, self._committed, max_group=settings.max_group
        )

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        dimension: int,
        fingerprint: str,
        settings: LocalSettings | None = None,
        wait: bool = True,
    ) -> LocalCollection:
        """Open the collection in a folder, making it when there is none.

        Args:
            directory: Made when missing.
            dimension: Numbers in one view's vector.
            fingerprint: The model whose vectors are searched and written.
            settings: How it searches and looks after itself.
            wait: Return only when the index is loaded; otherwise `status` tells how far it is, records can be read, and
                searches and writes raise `NotReadyError` until then.

        Raises:
            CollectionLockedError: If another process has it open.
            FingerprintMismatchError: If pictures have no vectors of this model.
            StorageError: If the folder or the catalogue cannot be used.
        """
        settings = settings or LocalSettings()
        with ExitStack() as undo:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                lock = undo.enter_context(FolderLock(directory / LOCK_NAME))
                catalogue = Catalogue(directory / CATALOGUE_NAME, fingerprint=fingerprint, dimension=dimension)
                undo.callback(catalogue.close)
                _check_fingerprint(catalogue)
                machine = look_at_machine()
                if not machine.has_faiss:
                    _logger.warning("FAISS is not installed; searching with NumPy, which is slower: install faiss-cpu")
                collection = cls(directory, catalogue, settings, machine)
            except OSError as error:
                raise storage_error(error, f"opening {directory}") from error
            collection._resources.enter_context(lock)
            collection._resources.callback(catalogue.close)
            undo.pop_all()
        collection._maintenance.start()
        if wait:
            collection._wait_until_loaded()
        return collection

    @property
    def dimension(self) -> int:
        """Numbers in one view's vector."""
        return self._catalogue.dimension

    @property
    def fingerprint(self) -> str:
        """The model that made every vector searched here."""
        return self._catalogue.fingerprint

    @property
    def is_ready(self) -> bool:
        """The index holds every committed picture."""
        return self._live.is_ready and not self._is_closed

    @property
    def num_images(self) -> int:
        """Pictures stored."""
        return self._live.num_images if self._live.is_ready else self._num_images_at_open

    @property
    def engine(self) -> str:
        """How neighbours are found."""
        kind = self._live.kind
        return kind.value if kind else "none"

    def add(self, images: Sequence[NewImage]) -> list[AddOutcome]:
        """Store pictures; on return they are durable and searchable. All or none of one call is stored."""
        self._check_ready()
        check_images(images, self.dimension)
        described = [(image, encode_metadata(image.metadata)) for image in images]
        contents = {image.content_hash: image.content for image in images}
        try:
            with self._originals.lease(contents.keys()):
                self._originals.write_all(contents)
                return self._writer.run(
                    lambda transaction: [
                        AddOutcome(image.id, transaction.put(image, text)) for image, text in described
                    ]
                )
        except StorageError:
            self._remove_unreferenced_quietly(sorted(contents))
            raise

    def update(
        self, image_id: str, *, metadata: Metadata | None = None, caption: str | None = None
    ) -> ImageRecord | None:
        """Replace a picture's metadata and/or caption; ``None`` when there is no such picture."""
        self._check_ready()
        text = None if metadata is None else encode_metadata(metadata)
        if caption is not None:
            check_text(caption, "caption")

        def write(transaction: CatalogueTransaction) -> ImageRecord | None:
            if not transaction.update(image_id, text, caption):
                return None
            stored = self._catalogue.reader_on(transaction.connection).find(image_id)
            return stored.record if stored else None

        return self._writer.run(write)

    def delete(self, image_id: str) -> bool:
        """Remove a picture; ``False`` when there is none."""
        self._check_ready()
        return self._writer.run(lambda transaction: transaction.delete(image_id))

    def get(self, image_id: str) -> ImageRecord | None:
        """Return one record, or ``None``."""
        with self._catalogue.read() as reader:
            stored = reader.find(image_id)
        return stored.record if stored else None

    def vectors(self, image_id: str) -> tuple[Vector, Vector] | None:
        """Return the (appearance, structure) vectors of one picture."""
        with self._catalogue.read() as reader:
            pair = reader.pair(image_id)
        return None if pair is None else (pair[: self.dimension], pair[self.dimension :])

    def find_content(self, content_hash: str) -> StoredVectors | None:
        """Return any stored picture with exactly this content."""
        with self._catalogue.read() as reader:
            return self._with_vectors(reader, reader.find_content(content_hash))

    def original(self, image_id: str) -> bytes | None:
        """Return the original file."""
        while (record := self.get(image_id)) is not None:
            content = self._originals.read(record.content_hash)
            if content is not None:
                return content
            again = self.get(image_id)
            if again is not None and again.content_hash == record.content_hash:
                raise StorageError(f"the original of {image_id!r} is missing from {self._directory}; restore a backup")
        return None

    def list_images(self, *, limit: int, cursor: str | None = None, filter: Filter | None = None) -> Page[ImageRecord]:
        """List records from the newest change to the oldest."""
        check_limit(limit)
        question = list_question(filter)
        below = None if cursor is None else read_list_cursor(cursor, question)
        with self._catalogue.read() as reader:
            records = reader.page(filter, below=below, limit=limit + 1)
        if len(records) <= limit:
            return Page(records, None)
        return Page(records[:limit], list_cursor(question, records[limit - 1].sequence))

    def search(
        self,
        query: Vector,
        *,
        limit: int,
        cursor: str | None = None,
        filter: Filter | None = None,
        min_score: float | None = None,
        wait: bool = True,
    ) -> Page[SearchHit]:
        """Return the pictures with the highest ``query . [appearance ; structure]``, best first, ties by id."""
        query = check_query(query, self.dimension, limit)
        question = search_question(query, filter, min_score)
        after = None if cursor is None else read_search_cursor(cursor, question)
        request = SearchRequest(query, limit + 1, after, filter, min_score)
        with self._live.view(wait=wait) as view:
            hits = find_hits(request, view.engine, view.reader, self._policy, self._filters)
        if len(hits) <= limit:
            return Page(hits, None)
        last, num_seen = hits[limit - 1], (after.num_seen if after else 0) + limit
        return Page(hits[:limit], search_cursor(question, SearchPosition(last.score, last.record.id, num_seen)))

    def count(self, filter: Filter | None = None) -> int:
        """Count stored pictures that meet the condition."""
        with self._catalogue.read() as reader:
            return reader.count() if filter is None else len(self._filters.allowed(filter, reader))

    def fields(self) -> Sequence[FieldSummary]:
        """Tell what metadata the pictures hold that were added last."""
        with self._catalogue.read() as reader:
            return reader.fields(MAX_PICTURES)

    def status(self) -> CollectionStatus:
        """Tell what the collection is doing."""
        live, maintenance, is_ready = self._live, self._maintenance, self.is_ready
        return CollectionStatus(
            num_images=self.num_images,
            engine=self.engine,
            is_ready=is_ready,
            progress=1.0 if is_ready else maintenance.progress,
            activity=maintenance.activity,
            snapshot_age_seconds=self._snapshots.age_seconds(),
            sequence=max(0, live.sequence),
            self_check_recall=maintenance.self_check_recall,
            search_parameters=dict(live.parameters),
        )

    def self_check(self) -> float:
        """Return the recall@10 of the engine on a few stored vectors, measured now."""
        return self._maintenance.self_check()

    def snapshot(self) -> None:
        """Write the engine to disk, so that the next start is quick."""
        self._check_ready()
        self._maintenance.snapshot()

    def backup(self, destination: Path) -> None:
        """Write a consistent copy of everything to a new folder while the collection stays in use.

        Raises:
            BackupError: If the folder is not empty, or the copy does not hold what it should.
        """
        with self._originals.removal_paused():
            write_backup(self._catalogue.path, self._directory / "originals", destination)

    def close(self) -> None:
        """Finish pending writes, take a snapshot and release everything."""
        if self._is_closed:
            return
        self._is_closed = True
        self._writer.close()
        self._maintenance.stop()
        try:
            if self._live.is_ready:
                self._maintenance.snapshot()
        except CollectionError as error:
            _logger.warning("no snapshot was taken at close; the next start replays or rebuilds: %s", error)
        finally:
            self._resources.close()

    def __enter__(self) -> LocalCollection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_loaded(self) -> None:
        try:
            self._maintenance.wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def _check_ready(self) -> None:
        if self._is_closed:
            raise CollectionClosedError("the collection is closed")
        if not self._live.is_ready:
            raise NotReadyError("the index is still being loaded; see /readyz for progress")

    def _with_vectors(self, reader: CatalogueReader, stored: StoredImage | None) -> StoredVectors | None:
        if stored is None:
            return None
        _, pairs = reader.pairs([stored.number])
        return StoredVectors(stored.record, pairs[0, : self.dimension], pairs[0, self.dimension :])

    def _committed(self, sequence: int, changes: Sequence[VectorChange]) -> None:
        """Runs in the writer thread between a commit and the answers."""
        if not self._live.apply(sequence, changes):
            self._maintenance.wake()
        released = sorted({change.released for change in changes if change.released is not None})
        self._remove_unreferenced(released)

    def _remove_unreferenced(self, content_hashes: Sequence[str]) -> None:
        """Runs in the writer thread, so that no reference can be committed in between."""
        if not content_hashes:
            return
        try:
            with self._catalogue.read() as reader:
                referenced = reader.referenced(content_hashes)
            for content_hash in content_hashes:
                if content_hash not in referenced:
                    self._originals.remove(content_hash)
        except (OSError, StorageError) as error:
            _logger.warning("unreferenced originals stay until the next open: %s", error)

    def _remove_unreferenced_quietly(self, content_hashes: Sequence[str]) -> None:
        try:
            self._writer.run(lambda _: self._remove_unreferenced(content_hashes))
        except CollectionError as error:
            _logger.warning("unreferenced originals stay until the next open: %s", error)

    def _collect_orphans(self) -> None:
        def referenced(hashes: list[str]) -> set[str]:
            with self._catalogue.read() as reader:
                return reader.referenced(hashes)

        orphans = self._originals.unreferenced(referenced)
        if orphans:
            _logger.info("removing %d originals that no picture refers to", len(orphans))
            self._writer.run(lambda _: self._remove_unreferenced(orphans))

    def _prune_log(self, through: int) -> None:
        self._writer.run(lambda transaction: transaction.prune_log(through))


def _check_fingerprint(catalogue: Catalogue) -> None:
    with catalogue.read() as reader:
        num_missing = reader.count() - reader.count_vectors()
        stored = reader.other_fingerprints() if num_missing else ()
    if num_missing:
        raise FingerprintMismatchError(
            f"{num_missing} stored pictures have no vectors of the model {catalogue.fingerprint!r}; they have those of "
            f"{', '.join(map(repr, stored))}. Run `structxlip reindex` with the new model, or open with the model "
            "that they were added with",
            num_missing=num_missing,
            asked=catalogue.fingerprint,
            stored=stored,
        )
