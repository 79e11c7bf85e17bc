"""A file that all processes of a node map into memory, and the lock that they share on it.

The file is made whole under another name and then renamed. It has its full size before a process
maps it, so that a full disk cannot kill a process that writes to it. A file of that name that is
not of this kind is replaced, never repaired in place: another process may have it mapped, and would
continue with contents that it does not know. Every process opens the file itself: a lock (`flock`)
belongs to the open file, so an inherited descriptor would exclude no other process. For the same
reason a process uses the file from one thread.

Note: a process that holds the lock may have been stopped. So the wait for the lock ends after some
50 ms, and lets other greenlets run meanwhile; a blocking lock would stop them all.

Layout: a header of 64 bytes, then the users' words::

    16 bytes   kind
    u64        size of the file
    16 bytes   key of the hashes in it
    padding
"""

import contextlib
import fcntl
import mmap
import os
import secrets
import struct
import time
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final

from proxy.core.errors import LimiterError
from proxy.runtime import filelock

#: Kind, size, key of the hashes.
_HEADER: Final = struct.Struct("<16sQ16s")
#: Bytes in front of the users' words.
HEADER_SIZE: Final = 64
_EXCLUSIVE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
#: Seconds before each further try of the lock; None: no pause. A holder needs microseconds, or some
#: milliseconds on a busy machine where it has lost the CPU. Tries are counted, not timed: on such a
#: machine a deadline might pass before the first pause. Limits are less exact after a failure, so
#: it is worth avoiding.
_PAUSES_SECONDS: Final = (*[None] * 8, 0.0, *[0.0005] * 8, *[0.005] * 8)
#: Seconds between two checks that the file is still the one at its path.
_CHECK_INTERVAL: Final = 1.0

#: Seconds since the machine's start: a clock that all processes of a node share.
since_boot: Final = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class MappedFile:
    """The mapped file. The first :meth:`lock` opens or makes it."""

    def __init__(self, path: Path, kind: bytes, size: int) -> None:
        """Create the file's owner.

        Args:
            path: The file. Its name changes with the layout, like `kind`: during an upgrade both
                versions run, and would replace each other's file.
            kind: At most 16 bytes that name the layout.
            size: Bytes after the header, in whole words of 8 bytes.
        """
        self._path = path
        self._kind = kind.ljust(16, b"\0")
        self._size = HEADER_SIZE + size
        #: Of the open file; -1 while it is closed.
        self.descriptor = -1
        self._check_at = 0.0
        #: Changes when the views become those of another file.
        self.generation = 0
        # The same in all processes. It keeps clients from choosing keys with colliding hashes.
        self._hash_key = b""
        self._header = b""
        empty = memoryview(bytearray())
        self.words = empty.cast("Q")
        self.halves = empty.cast("I")
        self.doubles = empty.cast("d")

    def lock(self) -> None:
        """Lock the file.

        Raises LimiterError after some 50 ms when another process keeps the lock, or when there can
        be no such file.
        """
        if self.descriptor >= 0 and time.monotonic() < self._check_at:
            # Nearly always. No further call, because this is on the path of a request.
            try:
                fcntl.flock(self.descriptor, _EXCLUSIVE)
            except OSError:
                pass  # the next try finds out why
            else:
                # As in `check`: a file that was truncated is not touched.
                if os.lseek(self.descriptor, 0, os.SEEK_END) == self._size:
                    return
        try:
            self.check()
            if self._try():
                return
            for pause in _PAUSES_SECONDS:
                if pause is not None:
                    time.sleep(pause)  # gevent's, in a worker
                if self._try():
                    return
        except OSError as error:
            raise LimiterError from error
        raise LimiterError from TimeoutError(f"{self._path} stays locked")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the file for the length of a block. Raises as :meth:`lock`."""
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def check(self) -> None:
        """Open the file, or check once a second that the mapped file is still the one at its path.

        Must also precede every read. Afterwards the file is open, unless another process is making
        it. Raises OSError when there can be no such file.
        """
        now = time.monotonic()
        # The size is checked at every use: touching memory behind the end of the file ends the
        # process.
        if now < self._check_at and (
            self.descriptor < 0 or os.lseek(self.descriptor, 0, os.SEEK_END) == self._size
        ):
            return
        self._check_at = now + _CHECK_INTERVAL
        if self._is_current():
            return
        self.close()
        # A file of the wrong kind is replaced by the first try, and opened by the second.
        if self._open() or self._open():
            self.unlock()
        else:
            self._check_at = 0.0

    def unlock(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which remains. A later :meth:`lock` opens it again. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            self.generation += 1
            self.words.release()
            self.halves.release()
            self.doubles.release()
            self._memory.close()
            os.close(descriptor)

    def hash_of(self, key: str) -> int:
        """Return the key's hash of 8 bytes. Never 0, which means an unused word.

        The file must be open.
        """
        digest = blake2b(key.encode(), digest_size=8, key=self._hash_key).digest()
        return int.from_bytes(digest, "little") or 1

    def _is_current(self) -> bool:
        """Return whether the open file is the one at the path, whole, and with the same header."""
        if self.descriptor < 0:
            return False
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
            # The header shows a file that was truncated and grown again, or overwritten.
            return (
                os.path.samestat(os.fstat(self.descriptor), status)
                and status.st_size == self._size
                and os.pread(self.descriptor, _HEADER.size, 0) == self._header
            )
        return False

    def _try(self) -> bool:
        if self.descriptor < 0:
            return self._open()
        try:
            fcntl.flock(self.descriptor, _EXCLUSIVE)
        except BlockingIOError:
            return False
        return True

    def _open(self) -> bool:
        """Open and lock the file. Returns whether that succeeded.

        The lock comes first: of all processes that find an unusable file, one replaces it.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if filelock.try_lock(descriptor) and filelock.is_same_file(descriptor, self._path):
                header = self._header_of(descriptor)
                if header is not None:
                    self._map(descriptor, header)
                    return True
                self._replace()
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return False

    def _header_of(self, descriptor: int) -> bytes | None:
        """Return the header, or None when the file is not of this kind and size."""
        if os.fstat(descriptor).st_size != self._size:
            return None
        header = os.pread(descriptor, _HEADER.size, 0)
        kind, size, _ = _HEADER.unpack(header)
        return header if (kind, size) == (self._kind, self._size) else None

    def _replace(self) -> None:
        """Put a new file at the path, while the file that is there is locked."""
        # The same name in all processes, so that processes killed here leave at most one file.
        made = self._path.with_name(f"{self._path.name}.new")
        try:
            descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
                header = _HEADER.pack(self._kind, self._size, secrets.token_bytes(16))
                os.pwrite(descriptor, header, 0)
            finally:
                os.close(descriptor)
            made.replace(self._path)
        except OSError:
            # Leave neither the half allocated file nor the unusable one behind.
            made.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
            raise

    def _map(self, descriptor: int, header: bytes) -> None:
        self._memory = mmap.mmap(descriptor, self._size)
        self._header = header
        _, _, self._hash_key = _HEADER.unpack(header)
        self.words = memoryview(self._memory).cast("Q")
        self.halves = memoryview(self._memory).cast("I")
        self.doubles = memoryview(self._memory).cast("d")
        self.generation += 1
        self.descriptor = descriptor
