-- Topologies that another one replaced: a diagnosis names the revision it was made with, and is made again by that one. The one that
-- is registered now stands in `equipment` alone.
create table replaced_topologies (
    equipment_key integer not null references equipment,
    revision text not null,
    topology jsonb not null,
    replaced_at timestamptz not null default now(),
    primary key (equipment_key, revision)
);
