-- What grows with time, on TimescaleDB: hypertables; compression where the licence has it.

create table sensor_readings (
    time timestamptz not null,
    value double precision not null,
    equipment_key integer not null,
    slot integer not null,
    primary key (equipment_key, time, slot)
);
select create_hypertable('sensor_readings', 'time', chunk_time_interval => interval '7 days');

create table sensor_grid (
    equipment_key integer not null,
    time timestamptz not null,
    vals real[] not null check (array_position(vals, null) is null),
    primary key (equipment_key, time)
);
select create_hypertable('sensor_grid', 'time', chunk_time_interval => interval '7 days');

create table diagnoses (
    diagnosis_id text not null,
    created_at timestamptz not null,
    equipment_id text not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    model_version text not null,
    status text not null,
    health double precision,
    body jsonb not null,
    primary key (diagnosis_id, created_at)
);
select create_hypertable('diagnoses', 'created_at', chunk_time_interval => interval '1 month');
create index diagnoses_of_equipment on diagnoses (equipment_id, window_end desc);

-- Compression and its policy belong to the Timescale licence; the Apache edition refuses them.
do $$
begin
    if current_setting('timescaledb.license', true) = 'timescale' then
        alter table sensor_readings set (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'equipment_key, slot',
            timescaledb.compress_orderby = 'time'
        );
        alter table sensor_grid set (
            timescaledb.compress,
            timescaledb.compress_segmentby = 'equipment_key',
            timescaledb.compress_orderby = 'time'
        );
        perform add_compression_policy('sensor_readings', interval '30 days');
        perform add_compression_policy('sensor_grid', interval '30 days');
    end if;
end
$$;

-- Chunks make themselves.
create function prepare_months(months timestamptz[]) returns void language sql as $$
$$;

-- Drop the chunks that end at or before the cutoff; answers how many.
create function drop_before(cutoff timestamptz) returns integer language sql as $$
    select (
        (select count(*) from drop_chunks('sensor_readings', older_than => cutoff))
        + (select count(*) from drop_chunks('sensor_grid', older_than => cutoff))
        + (select count(*) from drop_chunks('diagnoses', older_than => cutoff))
    )::integer
$$;
