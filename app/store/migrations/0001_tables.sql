-- Machines, their sensors' places in the grid, labels, releases and keys: what has no time partitions.

create table equipment (
    equipment_key integer generated always as identity primary key,
    equipment_id text not null unique,
    topology jsonb not null,
    revision text not null,
    grid_us bigint not null check (grid_us > 0),
    -- Width of a bin. Kept in microseconds: an interval of a day is not 24 hours.
    grid interval not null generated always as (grid_us * interval '1 microsecond') stored,
    registered_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- A slot is a sensor's position in the grid's arrays. It is given once and never again, also when the sensor has gone
-- from the topology, so that a stored array keeps its meaning.
create table equipment_sensors (
    equipment_key integer not null references equipment,
    slot integer not null check (slot >= 0),
    sensor_id text not null,
    primary key (equipment_key, slot),
    unique (equipment_key, sensor_id)
);

create table condition_labels (
    equipment_key integer not null references equipment,
    component_id text not null,
    start_time timestamptz not null,
    end_time timestamptz not null check (end_time > start_time),
    grade text not null,
    stable boolean not null,
    cycle integer,
    primary key (equipment_key, component_id, start_time)
);

create table releases (
    release_id bigint generated always as identity primary key,
    released_at timestamptz not null default now(),
    version text not null,
    action text not null,
    weights jsonb not null,
    actor text not null,
    reason text not null
);

create table api_keys (
    key_id integer generated always as identity primary key,
    name text not null,
    shown text not null,
    secret_sha256 bytea not null unique check (octet_length(secret_sha256) = 32),
    scopes text[] not null check (scopes <@ array['read', 'ingest', 'diagnose', 'admin'] and cardinality(scopes) > 0),
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
