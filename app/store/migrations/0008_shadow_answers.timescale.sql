-- What shadow versions told on copies of what others answered, one row a copy: read beside the diagnosis that was returned, and kept
-- as long. A row has the `created_at` of the returned diagnosis, so that a join on (diagnosis_id, created_at) stays in one chunk;
-- `latency_s` and `against_latency_s` are how long building and scoring took in either.
create table shadow_answers (
    diagnosis_id text not null,
    created_at timestamptz not null,
    equipment_id text not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    version text not null,
    against text not null,
    latency_s real not null,
    against_latency_s real not null,
    body json not null,
    primary key (diagnosis_id, version, created_at)
);
select create_hypertable('shadow_answers', 'created_at', chunk_time_interval => interval '1 month');
create index shadow_answers_of_pair on shadow_answers (version, against, created_at desc);

-- As 0002_series.timescale.sql and 0006_retention.timescale.sql say it, with the new table.
create or replace function drop_before(cutoff timestamptz) returns integer language sql set lock_timeout = '100ms' as $$
    select (
        (select count(*) from drop_chunks('sensor_readings', older_than => cutoff))
        + (select count(*) from drop_chunks('sensor_grid', older_than => cutoff))
        + (select count(*) from drop_chunks('diagnoses', older_than => cutoff))
        + (select count(*) from drop_chunks('shadow_answers', older_than => cutoff))
    )::integer
$$;
