-- Maintenance of equipment, and what its counter of operating hours showed.

-- `component_id` is empty for the whole machine. Recording the same again changes the note alone.
create table maintenance (
    maintenance_id bigint generated always as identity primary key,
    equipment_key integer not null references equipment,
    component_id text not null default '',
    performed_at timestamptz not null,
    kind text not null,
    note text not null default '',
    recorded_at timestamptz not null default now(),
    unique (equipment_key, performed_at, component_id, kind)
);

-- Metadata have the newest value of the counter; a trend over operating hours needs all of them.
create table operating_counters (
    equipment_key integer not null references equipment,
    as_of timestamptz not null,
    value_h double precision not null check (value_h >= 0),
    primary key (equipment_key, as_of)
);

insert into operating_counters (equipment_key, as_of, value_h)
select
    equipment_key,
    (metadata -> 'operating_hours' ->> 'as_of')::timestamptz,
    (metadata -> 'operating_hours' ->> 'value_h')::double precision
from equipment
where metadata ? 'operating_hours';
