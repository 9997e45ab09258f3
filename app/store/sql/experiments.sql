-- Pairs of answers of two versions.

-- name: compared_versions
-- The (shadow version, returned version) with answers in [start, end), by a loose index scan.
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
-- Pairs of answers of versions $1 and $2 with predictions and labels, newest first.
-- Answers made at or after $3 and before the answer with time $4 and id $5, at most $6 of them.
-- A label counts when it covers the whole window; `returned_*` is null without a stored diagnosis.
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
left join diagnoses diagnosis
    on diagnosis.diagnosis_id = page.diagnosis_id and diagnosis.created_at = page.created_at
left join equipment on equipment.equipment_id = page.equipment_id
cross join lateral json_to_record(page.body) as whole (status text, components json)
cross join lateral (
    select
        array_agg(component_id) as component_ids, array_agg(health) as healths,
        array_agg(condition) as conditions, array_agg(state) as states
    from json_to_recordset(whole.components)
        as component (component_id text, health double precision, condition text, state text)
) shadow
cross join lateral (
    select
        array_agg(component_id) as component_ids, array_agg(health) as healths,
        array_agg(condition) as conditions, array_agg(state) as states
    from json_to_recordset(diagnosis.body -> 'components')
        as component (component_id text, health double precision, condition text, state text)
) returned
cross join lateral (
    select
        array_agg(label.component_id) as component_ids, array_agg(label.grade) as grades,
        array_agg(label.health) as healths
    from unnest(shadow.component_ids) as predicted (component_id)
    cross join lateral (
        -- labels of a component do not overlap: only the last that has begun can cover the window
        select known.component_id, known.end_time, known.grade, known.health, known.stable
        from condition_labels known
        where known.equipment_key = equipment.equipment_key
            and known.component_id = predicted.component_id
            and known.start_time <= page.window_start
        order by known.start_time desc
        limit 1
    ) label
    where label.end_time >= page.window_end and label.stable
        and num_nonnulls(label.grade, label.health) = 1
) truth
order by page.created_at desc, page.diagnosis_id desc;
