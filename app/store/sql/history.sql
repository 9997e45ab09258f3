-- Histories of health.

-- name: health_histories
-- What the trends of machines are fitted on, one row each.
-- Samples: the newest diagnosis in each of $2 equal parts of the last year of diagnoses, and in
-- each of $2 parts of the last twelfth of it. Of these hours $3, evenly spaced: with readings or
-- not. Maintenance of the kind $4 is left out.
select
    machine.equipment_id,
    range.first_us,
    range.last_us,
    (
        select json_agg(json_build_array(
            (extract(epoch from sample.window_end) * 1000000)::bigint,
            sample.model_version,
            (
                select json_object_agg(component ->> 'component_id', component -> 'health')
                from json_array_elements(sample.body -> 'components') component
                where component ->> 'basis' = 'labels' and component ->> 'health' is not null
            )
        ))
        from (
            select
                range.first_us as low_us,
                (range.last_us - range.first_us) / $2::integer + 1 as part_us
            union all
            select
                range.last_us - (range.last_us - range.first_us) / 12,
                (range.last_us - range.first_us) / 12 / $2::integer + 1
        ) grid
        cross join generate_series(0, $2::integer - 1) part
        cross join lateral (
            select diagnosis.window_end, diagnosis.model_version, diagnosis.body
            from diagnoses diagnosis
            where diagnosis.equipment_id = machine.equipment_id
                and diagnosis.window_end >= timestamptz 'epoch'
                    + (grid.low_us + part * grid.part_us) * interval '1 microsecond'
                and diagnosis.window_end < timestamptz 'epoch'
                    + (grid.low_us + (part + 1) * grid.part_us) * interval '1 microsecond'
            order by diagnosis.window_end desc
            limit 1
        ) sample
        where sample.body -> 'input' ->> 'source' = 'store'
    )::text as samples,
    (
        select json_agg(json_build_array(
            (extract(epoch from counter.as_of) * 1000000)::bigint, counter.value_h
        ))
        from (
            select as_of, value_h from operating_counters
            where equipment_key = machine.equipment_key
            order by as_of desc limit 200
        ) counter
    )::text as counters,
    (
        select json_agg(json_build_array(
            (extract(epoch from done.performed_at) * 1000000)::bigint, done.component_id
        ))
        from (
            select performed_at, component_id from maintenance
            where equipment_key = machine.equipment_key and kind <> $4::text
            order by performed_at desc limit 1000
        ) done
    )::text as maintenance,
    (
        select array_agg(exists (
            select from sensor_grid grid
            where grid.equipment_key = machine.equipment_key
                and grid.time >= timestamptz 'epoch' + at_us * interval '1 microsecond'
                and grid.time < timestamptz 'epoch' + at_us * interval '1 microsecond'
                    + interval '1 hour'
        ) order by at_us)
        from generate_series(
            range.first_us,
            range.last_us - 1,
            greatest(3600000000, (range.last_us - range.first_us) / $3::integer + 1)
        ) at_us
        where (
            select count(*) from operating_counters where equipment_key = machine.equipment_key
        ) < 2
    ) as has_readings
from equipment machine
cross join lateral (
    select
        (extract(epoch from greatest(
            oldest.window_end, newest.window_end - interval '1 year'
        )) * 1000000)::bigint as first_us,
        (extract(epoch from newest.window_end) * 1000000)::bigint + 1 as last_us
    from (
        select window_end from diagnoses
        where equipment_id = machine.equipment_id order by window_end desc limit 1
    ) newest
    cross join (
        select window_end from diagnoses
        where equipment_id = machine.equipment_id order by window_end limit 1
    ) oldest
) range
where machine.equipment_id = any ($1::text[]) and machine.deleted_at is null;
