-- Dropping a partition needs its table for itself for a moment. Waiting for that moment behind a long read would hold
-- back everything that comes after, so it waits a tenth of a second at most; and it drops one partition in a
-- transaction, so that it never holds one table while it waits for another.

-- Drop one partition, the oldest, of those that end at or before the cutoff; answers how many went, 0 when none is left.
create or replace function drop_before(cutoff timestamptz) returns integer language plpgsql set lock_timeout = '100ms' as $$
declare
    partition text;
begin
    perform pg_advisory_xact_lock(7207001, 0);
    select child.relname into partition
    from pg_inherits
    join pg_class parent on parent.oid = pg_inherits.inhparent
    join pg_class child on child.oid = pg_inherits.inhrelid
    where parent.oid in ('sensor_readings'::regclass, 'sensor_grid'::regclass, 'diagnoses'::regclass)
        and (to_timestamp(right(child.relname, 7), 'YYYY_MM')::timestamp + interval '1 month') at time zone 'UTC'
            <= cutoff
    order by right(child.relname, 7), child.relname
    limit 1;
    if partition is null then
        return 0;
    end if;
    execute format('drop table %I', partition);
    return 1;
end
$$;
