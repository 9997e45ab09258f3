-- Condition labels.

-- name: lock_labels
-- Lock the labels of an equipment until the transaction ends.
select pg_advisory_xact_lock(7207005, hashtext($1::text));

-- name: put_labels
-- Write condition labels of an equipment; a label of the same component and start is replaced.
insert into condition_labels (
    equipment_key, component_id, start_time, end_time, grade, stable, cycle, health, run_to_failure,
    rul_h
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
    label.run_to_failure,
    label.rul_h
from unnest(
    $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::boolean[], $7::integer[],
    $8::double precision[], $9::boolean[], $10::double precision[]
) as label (component_id, start_us, end_us, grade, stable, cycle, health, run_to_failure, rul_h)
join equipment on equipment.equipment_id = $1::text and equipment.deleted_at is null
on conflict (equipment_key, component_id, start_time) do update
    set end_time = excluded.end_time, grade = excluded.grade, stable = excluded.stable,
        cycle = excluded.cycle, health = excluded.health,
        run_to_failure = excluded.run_to_failure, rul_h = excluded.rul_h
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
    label.run_to_failure,
    label.rul_h
from condition_labels label
join equipment on equipment.equipment_key = label.equipment_key
where equipment.equipment_id = $1::text
    and label.end_time > timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
    and label.start_time < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
    and ($4::text is null or label.component_id = $4::text)
    and (
        $5::bigint is null
        or (label.start_time, label.component_id)
            > (timestamptz 'epoch' + $5::bigint * interval '1 microsecond', $6::text)
    )
order by label.start_time, label.component_id
limit $7::bigint;

-- name: labels_around
-- For each interval of a component, the stored labels that begin in it, two at most, and the last
-- before it; labels of a component do not overlap, so no other can overlap the interval.
select
    given.position - 1 as position,
    stored.component_id,
    (extract(epoch from stored.start_time) * 1000000)::bigint as start_us,
    (extract(epoch from stored.end_time) * 1000000)::bigint as end_us,
    stored.grade,
    stored.stable,
    stored.cycle,
    stored.health,
    stored.run_to_failure,
    stored.rul_h
from unnest($2::text[], $3::bigint[], $4::bigint[])
    with ordinality as given (component_id, start_us, end_us, position)
join equipment on equipment.equipment_id = $1::text
cross join lateral (
    (
        select within.* from condition_labels within
        where within.equipment_key = equipment.equipment_key
            and within.component_id = given.component_id
            and within.start_time >=
                timestamptz 'epoch' + given.start_us * interval '1 microsecond'
            and within.start_time < timestamptz 'epoch' + given.end_us * interval '1 microsecond'
        order by within.start_time
        limit 2
    )
    union all
    (
        select before.* from condition_labels before
        where before.equipment_key = equipment.equipment_key
            and before.component_id = given.component_id
            and before.start_time < timestamptz 'epoch' + given.start_us * interval '1 microsecond'
        order by before.start_time desc
        limit 1
    )
) stored
where stored.end_time > timestamptz 'epoch' + given.start_us * interval '1 microsecond'
order by given.position, stored.start_time;

-- name: delete_labels
-- Remove the labels of an equipment, or of one component, that begin in [$3, $4); return how many.
with gone as (
    delete from condition_labels label using equipment
    where equipment.equipment_id = $1::text
        and label.equipment_key = equipment.equipment_key
        and ($2::text is null or label.component_id = $2::text)
        and label.start_time >= $3::timestamptz and label.start_time < $4::timestamptz
    returning 1
)
select count(*) from gone;
