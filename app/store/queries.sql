-- Every statement that the application sends, each with its name and its purpose. Parameters only.

-- name: lock_equipment
-- Keep other writers away from an equipment's registration and grid until the transaction ends.
select pg_advisory_xact_lock(7207003, hashtext($1::text));

-- name: put_equipment
-- Register an equipment, or replace its topology and keep the one before; `before` is null when it was not registered.
with known as (
    select equipment_key, topology, revision, grid_us from equipment where equipment_id = $1
),
kept as (
    insert into replaced_topologies (equipment_key, revision, topology)
    select equipment_key, revision, topology from known where revision <> $3
    on conflict (equipment_key, revision) do update set replaced_at = excluded.replaced_at
)
insert into equipment (equipment_id, topology, revision, grid_us)
values ($1::text, $2::jsonb, $3::text, $4::bigint)
on conflict (equipment_id) do update
    set topology = excluded.topology, revision = excluded.revision, grid_us = excluded.grid_us, updated_at = now()
returning
    equipment_key,
    (select revision from known) as revision_before,
    (select grid_us from known) as grid_us_before;

-- name: add_sensors
-- Give slots to the sensors of an equipment that have none yet, in the order given, after all that were ever given.
insert into equipment_sensors (equipment_key, slot, sensor_id)
select
    $1::integer,
    (select coalesce(max(slot) + 1, 0) from equipment_sensors where equipment_key = $1)
        + row_number() over (order by named.position) - 1,
    named.sensor_id
from unnest($2::text[]) with ordinality as named (sensor_id, position)
where not exists (
    select from equipment_sensors known where known.equipment_key = $1 and known.sensor_id = named.sensor_id
);

-- name: rebuild_grid
-- Work out an equipment's grid again from its readings; answers how many bins it has.
select rebuild_grid($1::integer);

-- name: get_equipment
-- The registered equipment of these ids, with the sensors that ever had a slot.
select
    equipment.equipment_id,
    equipment.topology,
    equipment.revision,
    equipment.registered_at,
    equipment.updated_at,
    array(
        select sensor.sensor_id from equipment_sensors sensor
        where sensor.equipment_key = equipment.equipment_key order by sensor.slot
    ) as slot_sensors
from equipment
where equipment.equipment_id = any ($1::text[])
order by equipment.equipment_id;

-- name: topology_of_revision
-- The topology that an equipment has, or had, at a revision.
select topology from equipment where equipment_id = $1::text and revision = $2::text
union all
select replaced.topology
from replaced_topologies replaced
join equipment on equipment.equipment_key = replaced.equipment_key
where equipment.equipment_id = $1::text and replaced.revision = $2::text
limit 1;

-- name: drop_replaced_topologies
-- Drop topologies that were replaced more than a month before the month of a time: no diagnosis that is kept was made with them.
-- Of diagnoses whole months go, on TimescaleDB whole chunks of 30 days, which begin where they like.
delete from replaced_topologies where replaced_at < date_trunc('month', $1::timestamptz, 'UTC') - interval '31 days';

-- name: list_equipment
-- Registered equipment after an id, in the order of ids.
select
    equipment.equipment_id,
    equipment.topology,
    equipment.revision,
    equipment.registered_at,
    equipment.updated_at,
    array(
        select sensor.sensor_id from equipment_sensors sensor
        where sensor.equipment_key = equipment.equipment_key order by sensor.slot
    ) as slot_sensors
from equipment
where equipment.equipment_id > $1::text
order by equipment.equipment_id
limit $2::integer;

-- name: unknown_series
-- Those of these (equipment, sensor) pairs that are not registered, and whether at least the equipment is.
select named.equipment_id, named.sensor_id, equipment.equipment_key is not null as has_equipment
from unnest($1::text[], $2::text[]) with ordinality as named (equipment_id, sensor_id, position)
left join equipment on equipment.equipment_id = named.equipment_id
left join equipment_sensors sensor
    on sensor.equipment_key = equipment.equipment_key and sensor.sensor_id = named.sensor_id
where sensor.slot is null
order by named.position;

-- name: prepare_months
-- Make the partitions of these months.
select prepare_months($1::timestamptz[]);

-- name: ingest_readings
-- Write readings and bring the grid up to date; answers how many were new.
select ingest_readings($1::text[], $2::text[], $3::integer[], $4::bigint[], $5::double precision[]);

-- name: read_windows
-- The grid's bins of many windows (first bin and number of bins) of many equipment, undecoded, with the newest reading and the
-- revision of the topology that is registered now.
select found.grid_us, found.slot_sensors, found.times, found.vals, found.newest, equipment.revision
from read_windows($1::text[], $2::bigint[], $3::bigint[])
    with ordinality as found (grid_us, slot_sensors, times, vals, newest, position)
join unnest($1::text[]) with ordinality as asked (equipment_id, position) using (position)
left join equipment on equipment.equipment_id = asked.equipment_id
order by position;

-- name: data_range
-- Starts of the first and the last bin of an equipment in microseconds since 1970, and its grid.
select
    (
        select (extract(epoch from grid.time) * 1000000)::bigint from sensor_grid grid
        where grid.equipment_key = equipment.equipment_key order by grid.time limit 1
    ) as first_us,
    (
        select (extract(epoch from grid.time) * 1000000)::bigint from sensor_grid grid
        where grid.equipment_key = equipment.equipment_key order by grid.time desc limit 1
    ) as last_us,
    equipment.grid_us
from equipment
where equipment.equipment_id = $1::text;

-- name: last_reading_time
-- Time of the newest reading of an equipment.
select (
    select reading.time from sensor_readings reading
    where reading.equipment_key = equipment.equipment_key order by reading.time desc limit 1
) as time
from equipment
where equipment.equipment_id = $1::text;

-- name: drop_before
-- Drop some of what is wholly older than a time; answers how many partitions went, 0 when none is left.
select drop_before($1::timestamptz);

-- name: put_labels
-- Write condition labels of an equipment; a label of the same component and start is replaced.
insert into condition_labels (
    equipment_key, component_id, start_time, end_time, grade, stable, cycle, health, run_to_failure
)
select
    equipment.equipment_key,
    label.component_id,
    timestamptz 'epoch' + label.start_us * interval '1 microsecond',
    timestamptz 'epoch' + label.end_us * interval '1 microsecond',
    label.grade,
    label.stable,
    label.cycle,
    label.health,
    label.run_to_failure
from unnest(
    $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::boolean[], $7::integer[], $8::double precision[], $9::boolean[]
) as label (component_id, start_us, end_us, grade, stable, cycle, health, run_to_failure)
join equipment on equipment.equipment_id = $1::text
on conflict (equipment_key, component_id, start_time) do update
    set end_time = excluded.end_time, grade = excluded.grade, stable = excluded.stable, cycle = excluded.cycle,
        health = excluded.health, run_to_failure = excluded.run_to_failure
returning 1;

-- name: read_labels
-- Condition labels of an equipment that overlap an interval, in the order of time.
select
    label.component_id,
    (extract(epoch from label.start_time) * 1000000)::bigint as start_us,
    (extract(epoch from label.end_time) * 1000000)::bigint as end_us,
    label.grade,
    label.stable,
    label.cycle,
    label.health,
    label.run_to_failure
from condition_labels label
join equipment on equipment.equipment_key = label.equipment_key
where equipment.equipment_id = $1::text and label.end_time > timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
    and label.start_time < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
order by label.start_time, label.component_id;

-- name: find_equipment
-- The registered equipment of an id pattern (LIKE) and a design, in the order of ids.
select equipment.equipment_id
from equipment
where ($1::text is null or equipment.equipment_id like $1::text)
    and ($2::text is null or equipment.topology ->> 'design' = $2::text)
order by equipment.equipment_id;

-- name: grid_digests
-- For each interval of an equipment how many bins of the grid it has, and a sum over them that changes when any time or value does.
select count(grid.time) as bins, coalesce(sum(
    hash_array_extended(grid.vals, (extract(epoch from grid.time) * 1000000)::bigint)::numeric
), 0)::text as sum
from unnest($1::text[], $2::bigint[], $3::bigint[]) with ordinality as asked (equipment_id, start_us, end_us, position)
left join equipment on equipment.equipment_id = asked.equipment_id
left join sensor_grid grid on grid.equipment_key = equipment.equipment_key
    and grid.time >= timestamptz 'epoch' + asked.start_us * interval '1 microsecond'
    and grid.time < timestamptz 'epoch' + asked.end_us * interval '1 microsecond'
group by asked.position
order by asked.position;

-- name: filled_windows
-- Which windows (first bin and number of bins) of these equipment hold any bin of the grid, in the order asked.
select exists (
    select from sensor_grid grid
    where grid.equipment_key = equipment.equipment_key
        and grid.time >= timestamptz 'epoch' + asked.first * equipment.grid_us * interval '1 microsecond'
        and grid.time < timestamptz 'epoch' + (asked.first + asked.bins) * equipment.grid_us * interval '1 microsecond'
) as filled
from unnest($1::text[], $2::bigint[], $3::bigint[]) with ordinality as asked (equipment_id, first, bins, position)
left join equipment on equipment.equipment_id = asked.equipment_id
order by asked.position;

-- name: insert_diagnoses
-- Store diagnoses; one that is there already stays as it is.
insert into diagnoses (
    diagnosis_id, created_at, equipment_id, window_start, window_end, model_version, status, health, body
)
select * from unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::text[],
    $8::double precision[], $9::json[]
)
on conflict do nothing;

-- name: get_diagnosis
-- The diagnosis of an id.
select body from diagnoses where diagnosis_id = $1::text limit 1;

-- name: diagnosis_history
-- Diagnoses of an equipment whose window ends within [start, end), newest first.
select body
from diagnoses
where equipment_id = $1::text
    and window_end >= coalesce($2::timestamptz, '-infinity') and window_end < coalesce($3::timestamptz, 'infinity')
order by window_end desc, created_at desc
limit $4::integer;

-- name: insert_shadow_answers
-- Store what shadow versions told; an answer that is there already stays as it is.
insert into shadow_answers (
    diagnosis_id, created_at, equipment_id, window_start, window_end, version, against, latency_s, against_latency_s, body
)
select * from unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::text[], $8::real[],
    $9::real[], $10::json[]
)
on conflict do nothing;

-- name: record_release
-- Add an event to the history of releases.
insert into releases (version, action, weights, actor, reason)
values ($1::text, $2::text, $3::jsonb, $4::text, $5::text)
returning release_id, released_at;

-- name: list_releases
-- The history of releases, newest first.
select release_id, released_at, version, action, weights, actor, reason
from releases
order by release_id desc
limit $1::integer;

-- name: create_key
-- Store a key by its hash.
insert into api_keys (name, shown, secret_sha256, scopes)
values ($1::text, $2::text, $3::bytea, $4::text[])
returning key_id, name, shown, scopes, created_at, revoked_at;

-- name: find_key
-- The key of a hash, unless it was revoked.
select key_id, name, shown, scopes, created_at, revoked_at
from api_keys
where secret_sha256 = $1::bytea and revoked_at is null;

-- name: revoke_key
-- Revoke a key for good.
update api_keys set revoked_at = coalesce(revoked_at, now()) where key_id = $1::integer
returning key_id;

-- name: list_keys
-- All keys, revoked ones too, oldest first.
select key_id, name, shown, scopes, created_at, revoked_at from api_keys order by key_id;

-- name: any_key
-- Whether a key that is not revoked exists.
select exists (select from api_keys where revoked_at is null);

-- name: ping
-- Whether the database answers.
select 1;

-- name: edition_probe
-- Whether TimescaleDB is in this database, and whether it could be put in.
select
    exists (select from pg_extension where extname = 'timescaledb') as installed,
    exists (select from pg_available_extensions where name = 'timescaledb')
        and current_setting('shared_preload_libraries') like '%timescaledb%' as available;

-- name: create_timescaledb
-- Put TimescaleDB into this database.
create extension if not exists timescaledb;

-- name: migration_lock
-- Keep other replicas from migrating until the transaction ends.
select pg_advisory_xact_lock(7207000, 0);

-- name: create_migrations
-- Make the table that says which migrations are in.
create table if not exists schema_migrations (
    version integer primary key,
    name text not null,
    edition text not null,
    sha256 text not null,
    applied_at timestamptz not null default now()
);

-- name: applied_migrations
-- The migrations that are in.
select version, name, edition, sha256 from schema_migrations order by version;

-- name: record_migration
-- Say that a migration is in.
insert into schema_migrations (version, name, edition, sha256) values ($1::integer, $2::text, $3::text, $4::text);

-- name: begin_fleet_run
-- Store what a run over the fleet is to do; a run of this name that is there stays as it is.
insert into fleet_runs (name, created_at, plan) values ($1::text, $2::timestamptz, $3::jsonb) on conflict do nothing;

-- name: get_fleet_run
-- What the run of this name is to do.
select name, created_at, plan from fleet_runs where name = $1::text;

-- name: fleet_pages
-- Registered equipment of an id pattern (LIKE) and a design as pages of neighbouring ids: about $3 pages, of $4 to $5 machines.
with chosen as (
    select
        equipment_id,
        row_number() over (order by equipment_id) - 1 as position,
        greatest($4::bigint, least($5::bigint, (count(*) over () + $3::bigint - 1) / $3::bigint)) as size
    from equipment
    where ($1::text is null or equipment_id like $1::text) and ($2::text is null or topology ->> 'design' = $2::text)
)
select min(equipment_id) as first, max(equipment_id) as last, count(*) as machines
from chosen
group by position / size
order by position / size;

-- name: fleet_page
-- The machines of a page of the run $1, by name ($3) or from an id to an id ($4, $5) of a pattern and a design ($6, $7), with the
-- id of each one's diagnosis in this run: those alike but for id and name together, with what they have in common; those done, and
-- those not registered, without.
with asked as (
    select unnest($3::text[]) as equipment_id
    union all
    select equipment_id
    from equipment
    where $3::text[] is null and equipment_id between $4::text and $5::text
        and ($6::text is null or equipment_id like $6::text)
        and ($7::text is null or topology ->> 'design' = $7::text)
), named as (
    select equipment_id, left(encode(sha256(convert_to($1::text || '/' || equipment_id, 'UTF8')), 'hex'), 32) as diagnosis_id
    from asked
), found as (
    select
        named.equipment_id,
        named.diagnosis_id,
        exists (
            select from diagnoses diagnosis
            where diagnosis.diagnosis_id = named.diagnosis_id and diagnosis.created_at = $2::timestamptz
        ) as done
    from named
), described as (
    select
        found.equipment_id,
        found.diagnosis_id,
        found.done,
        equipment.revision,
        coalesce(equipment.topology ->> 'name', '') as name,
        case when not found.done then equipment.topology - 'equipment_id' - 'name' end as structure
    from found
    left join equipment on equipment.equipment_id = found.equipment_id
)
select
    done,
    structure,
    array_agg(equipment_id) as equipment_ids,
    array_agg(diagnosis_id) as diagnosis_ids,
    array_agg(name) as names,
    array_agg(revision) as revisions
from described
group by done, structure;

-- name: states_before
-- How each machine's components stood in its newest diagnosis of stored readings whose window ended before a time.
select newest.states
from unnest($1::text[], $2::timestamptz[]) with ordinality as asked (equipment_id, window_end, position)
left join lateral (
    select (
        select jsonb_object_agg(component ->> 'component_id', component ->> 'state')
        from jsonb_array_elements(diagnosis.body::jsonb -> 'components') component
    ) as states
    from diagnoses diagnosis
    where diagnosis.equipment_id = asked.equipment_id and diagnosis.window_end < asked.window_end
        and diagnosis.body -> 'input' ->> 'source' = 'store'
    order by diagnosis.window_end desc, diagnosis.created_at desc
    limit 1
) newest on true
order by asked.position;

-- name: compared_versions
-- The shadow version and the returned version of all pairs of answers made in [start, end), found by jumping through the index.
with recursive pair as (
    (select version, against from shadow_answers order by version, against limit 1)
    union all
    select next.version, next.against
    from pair
    cross join lateral (
        select answer.version, answer.against
        from shadow_answers answer
        where (answer.version, answer.against) > (pair.version, pair.against)
        order by answer.version, answer.against
        limit 1
    ) next
)
select version, against
from pair
where exists (
    select from shadow_answers answer
    where answer.version = pair.version and answer.against = pair.against
        and answer.created_at >= $1::timestamptz and answer.created_at < $2::timestamptz
)
order by version, against;

-- name: answer_pairs
-- Pairs of answers of the versions $1 and $2 made from $3 on and before an answer's time and id ($4, $5), newest first, with what either
-- told of each component and with the label of each that holds the whole window; `returned` is null where it is not stored.
with page as (
    select *
    from (
        (
            select *, true as a_is_shadow
            from shadow_answers
            where version = $1::text and against = $2::text
                and created_at >= $3::timestamptz and created_at <= $4::timestamptz
                and (created_at, diagnosis_id) < ($4::timestamptz, $5::text)
            order by created_at desc, diagnosis_id desc
            limit $6::integer
        )
        union all
        (
            select *, false as a_is_shadow
            from shadow_answers
            where version = $2::text and against = $1::text
                and created_at >= $3::timestamptz and created_at <= $4::timestamptz
                and (created_at, diagnosis_id) < ($4::timestamptz, $5::text)
            order by created_at desc, diagnosis_id desc
            limit $6::integer
        )
    ) either
    order by created_at desc, diagnosis_id desc
    limit $6::integer
)
select
    page.diagnosis_id,
    page.created_at,
    page.equipment_id,
    page.window_start,
    page.window_end,
    page.a_is_shadow,
    page.latency_s,
    page.against_latency_s,
    whole.status as shadow_status,
    diagnosis.status as returned_status,
    shadow.component_ids as shadow_component_ids,
    shadow.healths as shadow_healths,
    shadow.conditions as shadow_conditions,
    shadow.states as shadow_states,
    returned.component_ids as returned_component_ids,
    returned.healths as returned_healths,
    returned.conditions as returned_conditions,
    returned.states as returned_states,
    truth.component_ids as truth_component_ids,
    truth.grades as truth_grades,
    truth.healths as truth_healths
from page
left join diagnoses diagnosis on diagnosis.diagnosis_id = page.diagnosis_id and diagnosis.created_at = page.created_at
left join equipment on equipment.equipment_id = page.equipment_id
cross join lateral json_to_record(page.body) as whole (status text, components json)
cross join lateral (
    select
        array_agg(component_id) as component_ids, array_agg(health) as healths, array_agg(condition) as conditions,
        array_agg(state) as states
    from json_to_recordset(whole.components)
        as component (component_id text, health double precision, condition text, state text)
) shadow
cross join lateral (
    select
        array_agg(component_id) as component_ids, array_agg(health) as healths, array_agg(condition) as conditions,
        array_agg(state) as states
    from json_to_recordset(diagnosis.body -> 'components')
        as component (component_id text, health double precision, condition text, state text)
) returned
cross join lateral (
    select array_agg(label.component_id) as component_ids, array_agg(label.grade) as grades, array_agg(label.health) as healths
    from unnest(shadow.component_ids) as told (component_id)
    cross join lateral (
        -- labels of a component do not overlap: the last one that has begun is the one that can hold the window
        select known.component_id, known.end_time, known.grade, known.health, known.stable
        from condition_labels known
        where known.equipment_key = equipment.equipment_key
            and known.component_id = told.component_id
            and known.start_time <= page.window_start
        order by known.start_time desc
        limit 1
    ) label
    where label.end_time >= page.window_end and label.stable and num_nonnulls(label.grade, label.health) = 1
) truth
order by page.created_at desc, page.diagnosis_id desc;
