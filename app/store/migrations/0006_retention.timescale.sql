-- Dropping a chunk needs it for itself for a moment; waiting for that behind a long read would hold back what comes after.
alter function drop_before(timestamptz) set lock_timeout = '100ms';
