"""A file that all processes of a node have in memory, and the lock that they share on it.

It has its full size before anybody maps it, so that a full disk cannot kill a process that writes
to it. Whatever lies under its name and is not such a file is replaced. Every process opens the file
itself: a lock (``flock``) belongs to the opened file, so that a descriptor that was inherited would
lock nobody out. For the same reason one process uses it from one thread.

The thing to get wrong: whoever holds the lock may have been stopped. Nobody waits for it longer
than some 50 ms, and who waits gives other greenlets their turn; a blocking lock would stop them.
"""

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
import time
from hashlib import blake2b
from pathlib import Path
from typing import Final

from proxy.errors import LimiterError

#: What kind of file, its size, and the key of the hashes in it.
_HEADER: Final = struct.Struct("<16sQ16s")
#: Bytes in front of what users keep in it.
HEADER_SIZE: Final = 64
_EXCLUSIVE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
#: Seconds before each further try, or none: a holder needs microseconds, unless it has lost the
#: processor, for some milliseconds on a busy machine. Counted, not timed: there, the time might be
#: over before the first pause. What follows a failure is less exact, and so worth avoiding.
_PAUSES: Final = (*[None] * 8, 0.0, *[0.0005] * 8, *[0.005] * 8)
#: Seconds between two looks whether the file still has its name.
_LOOK_EVERY: Final = 1.0


class MappedFile:
    """Lazy: opened, or made, by the first :meth:`lock`.

    ``kind`` is at most 16 bytes. It changes with the layout, and so must the path: during an
    upgrade both versions run, and would replace each other's file. ``size`` is without the header,
    in whole words of 8 bytes.
    """

    def __init__(self, path: Path, kind: bytes, size: int) -> None:
        self._path = path
        self._kind = kind.ljust(16, b"\0")
        self._size = HEADER_SIZE + size
        #: Of the open file; -1 while there is none.
        self.descriptor = -1
        self._look_at = 0.0
        #: Changes when the views become those of another file.
        self.generation = 0
        # So that nobody outside can choose keys that fall together. The same in all processes.
        self._hash_key = b""
        empty = memoryview(bytearray())
        self.words = empty.cast("Q")
        self.halves = empty.cast("I")
        self.doubles = empty.cast("d")

    def lock(self) -> None:
        """LimiterError, after some 50 ms: somebody else keeps it, or there can be no such file."""
        if self.descriptor >= 0 and time.monotonic() < self._look_at:
            # As nearly always. Without a further call: it is the path of a request.
            try:
                fcntl.flock(self.descriptor, _EXCLUSIVE)
            except OSError:
                pass  # the next try tells
            else:
                return
        try:
            self.check()
            if self._try():
                return
            for pause in _PAUSES:
                if pause is not None:
                    time.sleep(pause)  # of gevent, where there is gevent
                if self._try():
                    return
        except OSError as error:
            raise LimiterError from error
        raise LimiterError from TimeoutError(f"{self._path} stays locked")

    def check(self) -> None:
        """Before anything of it is read, too: once a second, whether the mapped file is still the
        one at its path; if not, it is closed. OSError."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._look()

    def unlock(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Idempotent; the file stays. A later :meth:`lock` opens it again."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            self.generation += 1
            self.words.release()
            self.halves.release()
            self.doubles.release()
            self._memory.close()
            os.close(descriptor)

    def hash_of(self, key: str) -> int:
        """Of 8 bytes, and never 0, which stands where none was ever written. While it is open."""
        digest = blake2b(key.encode(), digest_size=8, key=self._hash_key).digest()
        return int.from_bytes(digest, "little") or 1

    def _look(self) -> None:
        if self.descriptor < 0:
            return
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
            # Its size, too: to write behind the end of a file that was cut ends the process.
            if os.path.samestat(os.fstat(self.descriptor), status) and status.st_size == self._size:
                return
        self.close()

    def _try(self) -> bool:
        if self.descriptor < 0:
            return self._open()
        try:
            fcntl.flock(self.descriptor, _EXCLUSIVE)
        except BlockingIOError:
            return False
        return True

    def _open(self) -> bool:
        """Whether it is open, and locked. The lock comes first: somebody may be just making it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, _EXCLUSIVE)
            if self._is_ready(descriptor):
                self._map(descriptor)
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return False

    def _is_ready(self, descriptor: int) -> bool:
        status = os.fstat(descriptor)
        if not os.path.samestat(status, self._path.stat()):
            return False  # replaced before it was locked
        try:
            if status.st_size == 0:
                os.posix_fallocate(descriptor, 0, self._size)
                header = _HEADER.pack(self._kind, self._size, secrets.token_bytes(16))
                os.pwrite(descriptor, header, 0)
                return True
            if status.st_size == self._size:
                kind, size, _ = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
                if (kind, size) == (self._kind, self._size):
                    return True
        except OSError:
            self._path.unlink()  # not left behind half allocated
            raise
        # Never made fit in place: a process of another version may have it mapped.
        self._path.unlink()
        return False

    def _map(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, self._size)
        _, _, self._hash_key = _HEADER.unpack_from(self._memory)
        self.words = memoryview(self._memory).cast("Q")
        self.halves = memoryview(self._memory).cast("I")
        self.doubles = memoryview(self._memory).cast("d")
        self.generation += 1
        self.descriptor = descriptor
