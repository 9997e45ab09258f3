-- Offline scoring runs over the fleet.

-- name: begin_fleet_run
-- Store the plan of a run; a stored run of this name stays unchanged.
insert into fleet_runs (name, created_at, plan) values ($1::text, $2::timestamptz, $3::jsonb)
on conflict do nothing;

-- name: get_fleet_run
-- The run with this name.
select name, created_at, plan from fleet_runs where name = $1::text;

-- name: fleet_pages
-- Divide equipment of a pattern ($1) and a design ($2) into about $3 pages of $4 to $5 machines.
with chosen as (
    select
        equipment_id,
        row_number() over (order by equipment_id) - 1 as position,
        greatest(
            $4::bigint, least($5::bigint, (count(*) over () + $3::bigint - 1) / $3::bigint)
        ) as size
    from equipment
    where deleted_at is null
        and ($1::text is null or equipment_id like $1::text)
        and ($2::text is null or topology ->> 'design' = $2::text)
)
select min(equipment_id) as first, max(equipment_id) as last, count(*) as machines
from chosen
group by position / size
order by position / size;

-- name: fleet_page
-- The machines of a page of the run $1 created at $2, grouped by their common topology.
-- The page is a list of ids ($3), or the ids from $4 to $5 of a pattern ($6) and a design ($7).
-- `diagnosis_ids` are those of the run; `structure` is null for machines done or not registered.
with requested as (
    select unnest($3::text[]) as equipment_id
    union all
    select equipment_id
    from equipment
    where $3::text[] is null and deleted_at is null
        and equipment_id between $4::text and $5::text
        and ($6::text is null or equipment_id like $6::text)
        and ($7::text is null or topology ->> 'design' = $7::text)
), named as (
    select
        equipment_id,
        left(encode(sha256(convert_to($1::text || '/' || equipment_id, 'UTF8')), 'hex'), 32)
            as diagnosis_id
    from requested
), found as (
    select
        named.equipment_id,
        named.diagnosis_id,
        exists (
            select from diagnoses diagnosis
            where diagnosis.diagnosis_id = named.diagnosis_id
                and diagnosis.created_at = $2::timestamptz
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
    left join equipment
        on equipment.equipment_id = found.equipment_id and equipment.deleted_at is null
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
-- The component states of each machine's newest diagnosis of stored readings before a time.
select newest.states
from unnest($1::text[], $2::timestamptz[])
    with ordinality as requested (equipment_id, window_end, position)
left join lateral (
    select (
        select jsonb_object_agg(component ->> 'component_id', component ->> 'state')
        from jsonb_array_elements(diagnosis.body::jsonb -> 'components') component
    ) as states
    from diagnoses diagnosis
    where diagnosis.equipment_id = requested.equipment_id
        and diagnosis.window_end < requested.window_end
        and diagnosis.body -> 'input' ->> 'source' = 'store'
    order by diagnosis.window_end desc, diagnosis.created_at desc
    limit 1
) newest on true
order by requested.position;
