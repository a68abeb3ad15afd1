from __future__ import annotations

from threading import Event, Thread

from index.locking import SharedLock


def test_a_writer_waits_for_every_reader_and_a_released_one_counts_once() -> None:
    lock, entered = SharedLock(), Event()

    def write() -> None:
        with lock.exclusive():
            entered.set()

    with lock.shared() as first, lock.shared() as second:
        writer = Thread(target=write)
        first.release()
        first.release()
        writer.start()
        assert not entered.wait(0.05)
        second.release()
        assert entered.wait(5)
        writer.join()
    with lock.exclusive():  # leaving the block released nothing that was not held
        pass
    with lock.shared():
        pass


def test_a_reader_that_does_not_wait_gets_in_only_where_no_writer_is_or_waits() -> None:
    lock = SharedLock()
    first = lock.shared_now()
    assert first is not None
    entered, leave = Event(), Event()

    def write() -> None:
        with lock.exclusive():
            entered.set()
            assert leave.wait(10)

    writer = Thread(target=write)
    writer.start()
    while (second := lock.shared_now()) is not None:  # until the writer waits for the first reader
        second.release()
    assert not entered.is_set()
    first.release()
    assert entered.wait(10)
    assert lock.shared_now() is None
    leave.set()
    writer.join()
    last = lock.shared_now()
    assert last is not None
    last.release()
