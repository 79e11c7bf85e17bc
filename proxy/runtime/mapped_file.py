"""A file that all processes of a node have in memory, and the lock that they share on it.

The file is made whole under another name and then renamed: it has its full size before a process
maps it, so that a full disk cannot kill a process that writes to it. Whatever lies under its name
and is not such a file is replaced, never mended in place: another process may have it mapped, and
would go on with a file whose contents it does not know. Every process opens the file itself: a lock
(``flock``) belongs to the opened file, so that a descriptor that was inherited would lock nobody
out. For the same reason one process uses it from one thread.

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

from proxy.core.errors import LimiterError

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
        self._header = b""
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
                # As in `check`: a file that was cut is not touched.
                if os.lseek(self.descriptor, 0, os.SEEK_END) == self._size:
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
        """Open the file, or look once a second whether the mapped one is still the one at its path.

        Before anything of it is read, too. Afterwards it is open, unless another process is just
        making it. Raises OSError: there can be no such file.
        """
        now = time.monotonic()
        # Its size at every use: to touch what lies behind the end of a file ends the process.
        if now < self._look_at and (
            self.descriptor < 0 or os.lseek(self.descriptor, 0, os.SEEK_END) == self._size
        ):
            return
        self._look_at = now + _LOOK_EVERY
        if self._is_current():
            return
        self.close()
        # A file of the wrong kind is replaced by the first try, and opened by the second.
        if self._open() or self._open():
            self.unlock()
        else:
            self._look_at = 0.0

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

    def _is_current(self) -> bool:
        """Whether the open file is the one at the path, whole, and with the header it had."""
        if self.descriptor < 0:
            return False
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
            # Its header, too: cut and grown again, or written over, it is not what was mapped.
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
        """Whether it is open, and locked. The lock comes first: of all that find a file that is of
        no use, one replaces it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, _EXCLUSIVE)
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                header = self._header_of(descriptor)
                if header is not None:
                    self._map(descriptor, header)
                    return True
                self._replace()
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return False

    def _header_of(self, descriptor: int) -> bytes | None:
        """None: it is no file of this kind and size."""
        if os.fstat(descriptor).st_size != self._size:
            return None
        header = os.pread(descriptor, _HEADER.size, 0)
        kind, size, _ = _HEADER.unpack(header)
        return header if (kind, size) == (self._kind, self._size) else None

    def _replace(self) -> None:
        """Put a new file at the path. While the one that is there is locked."""
        # The same name in all processes, so that one that is killed here leaves one file at most.
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
            # Neither what was half allocated nor what is of no use is left behind.
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
