-- Stored diagnoses and the answers of shadow versions.

-- name: insert_diagnoses
-- Store diagnoses; stored ones stay unchanged. Sorted: a trigger locks the machine of each row.
insert into diagnoses (
    diagnosis_id, created_at, equipment_id, window_start, window_end, model_version, status, health,
    body, tenant
)
select
    made.diagnosis_id, made.created_at, made.equipment_id, made.window_start, made.window_end,
    made.model_version, made.status, made.health, made.body,
    coalesce(
        made.tenant,
        (select found.tenant from equipment found where found.equipment_id = made.equipment_id),
        'default'
    )
from unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
    $7::text[], $8::double precision[], $9::json[], $10::text[]
) as made (
    diagnosis_id, created_at, equipment_id, window_start, window_end, model_version, status, health,
    body, tenant
)
order by hashtext(made.equipment_id)
on conflict do nothing;

-- name: get_diagnosis
-- The diagnosis with an id.
select body from diagnoses where diagnosis_id = $1::text limit 1;

-- name: diagnosis_history
-- Diagnoses of an equipment whose window ends in [start, end), from after ($5, $6); newest first.
select body
from diagnoses
where equipment_id = $1::text
    and window_end >= coalesce($2::timestamptz, '-infinity')
    and window_end < coalesce($3::timestamptz, 'infinity')
    and window_end <= coalesce($5::timestamptz, 'infinity')
    and ($5::timestamptz is null or (window_end, diagnosis_id) < ($5::timestamptz, $6::text))
order by window_end desc, diagnosis_id desc
limit $4::integer;

-- name: insert_shadow_answers
-- Store answers of shadow versions; stored ones stay unchanged.
insert into shadow_answers (
    diagnosis_id, created_at, equipment_id, window_start, window_end, version, against, latency_s,
    against_latency_s, body, tenant
)
select
    made.diagnosis_id, made.created_at, made.equipment_id, made.window_start, made.window_end,
    made.version, made.against, made.latency_s, made.against_latency_s, made.body,
    coalesce(
        made.tenant,
        (select found.tenant from equipment found where found.equipment_id = made.equipment_id),
        'default'
    )
from unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
    $7::text[], $8::real[], $9::real[], $10::json[], $11::text[]
) as made (
    diagnosis_id, created_at, equipment_id, window_start, window_end, version, against, latency_s,
    against_latency_s, body, tenant
)
on conflict do nothing;
