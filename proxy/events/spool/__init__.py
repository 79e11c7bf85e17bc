"""The spool: events on disk until every sink has taken them.

Layout of ``DATA_DIR/spool``, one folder per worker process::

    lock                               node lock (flock): making a folder, looking for abandoned
                                       folders, enforcing SPOOL_MAX_BYTES. Held for moments.
    sinks.json                         JSON array of sink names for which segments are kept
    shipper.lock                       flock of the node's one shipper
    <milliseconds>-<pid>-<random>/     one writer's folder; the name is unique over all nodes
        lock                           flock, held by the writer until its process ends
        inflight                       in-flight table: memory-mapped slots of 2048 bytes
        <number>.log                   segment; 16 digits, so that names sort as numbers do
        <sink>.offset                  offset of one sink
        <sink>.fresh, thinned.fresh    a file being written, renamed when it is whole

A segment is a run of records, oldest first. One record is one event::

    crc32 of the line, 8 hex digits | space | JSON line | "\\n"
    0                                 8       9

An offset file is ``<segment> <byte>\\n`` with 16 digits each: all bytes before it, and all earlier
segments, are done. A slot of the in-flight table::

    state (0 free, 1 intent, 2 event) | unused | intent record | event record
    0                                   1        8               768 … 2047

Writing. One worker appends to one segment. It closes the segment at 8 MiB (a sixteenth of
SPOOL_MAX_BYTES where that is less) or after 120 s, so that the segment can be removed. Numbers only
grow, whatever the clock does, or a reader would pass over a segment.

Guarantees:

1. At least once. A sink's offset moves only after the sink has accepted what is before it. A
   process that is killed in between delivers a few lines twice, and loses none. A missing or
   damaged offset file means the beginning.
2. A killed worker loses no event. The intent is in the table before the request goes upstream, the
   event goes into the same slot when the request ends, and the slot is free again once the event is
   in the spool. Recovery (`recovery`) turns slots that are left into records: an event as it is, an
   intent as an event with outcome "unknown". A request that finds no slot is counted.
3. A power cut loses at most what was written since the last fsync. A record that the power cut
   tore fails its checksum, and is skipped and counted.
4. A segment is removed only when all sinks of ``sinks.json`` have passed it, with one exception:
   over SPOOL_MAX_BYTES the oldest segments go, refusals of unknown tokens first (`retention`,
   `thinning`). Lost records are counted.
5. A folder is removed by its owner when it has neither segments nor a table. A folder whose lock
   is free is abandoned: the kernel releases the lock when the process ends, however it ends.

Note: the last bytes of a segment may be half a record that is being written. They are a torn tail,
to be skipped and counted, only when they cannot be completed: a later segment exists, or the writer
is gone. This has to be known *before* the bytes are read.
"""
