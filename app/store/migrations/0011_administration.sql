-- Deleted equipment and what is known of a machine beside its topology; labels of remaining life;
-- keys that expire.

-- `metadata` has no part in the revision: a new count of operating hours does not make another
-- topology. Deleted equipment keeps its rows, so that its history can be read and its sensors get
-- their slots back when it is registered again.
alter table equipment
    add column metadata jsonb not null default '{}',
    add column deleted_at timestamptz;

-- Who deleted, restored or purged equipment, and how many rows a purge removed. It outlives the
-- equipment.
create table equipment_changes (
    change_id bigint generated always as identity primary key,
    changed_at timestamptz not null default now(),
    equipment_id text not null,
    action text not null check (action in ('deleted', 'restored', 'purged')),
    actor text not null,
    details jsonb not null default '{}'
);

-- Remaining useful life in operating hours at the end of the interval.
alter table condition_labels
    add column rul_h double precision check (rul_h >= 0 and rul_h < 'infinity'),
    drop constraint condition_labels_say_one_thing,
    add constraint condition_labels_say_one_thing
        check (num_nonnulls(grade, health, rul_h) + run_to_failure::integer = 1);

-- A key is revoked and rotated by its name: of several in force, the oldest keeps the name.
update api_keys set name = api_keys.name || ' #' || api_keys.key_id
where revoked_at is null and exists (
    select from api_keys older
    where older.name = api_keys.name and older.revoked_at is null and older.key_id < api_keys.key_id
);
create unique index api_keys_in_force on api_keys (name) where revoked_at is null;
alter table api_keys
    add column expires_at timestamptz,
    add column last_used_at timestamptz,
    drop constraint api_keys_scopes_check,
    add constraint api_keys_scopes_check
        check (scopes <@ array['read', 'ingest', 'label', 'diagnose', 'admin']
            and cardinality(scopes) > 0);
