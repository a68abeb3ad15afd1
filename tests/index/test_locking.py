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
