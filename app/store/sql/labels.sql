-- Condition labels.

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
    $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::boolean[], $7::integer[],
    $8::double precision[], $9::boolean[]
) as label (component_id, start_us, end_us, grade, stable, cycle, health, run_to_failure)
join equipment on equipment.equipment_id = $1::text
on conflict (equipment_key, component_id, start_time) do update
    set end_time = excluded.end_time, grade = excluded.grade, stable = excluded.stable,
        cycle = excluded.cycle, health = excluded.health, run_to_failure = excluded.run_to_failure
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
where equipment.equipment_id = $1::text
    and label.end_time > timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
    and label.start_time < timestamptz 'epoch' + $3::bigint * interval '1 microsecond'
order by label.start_time, label.component_id;
