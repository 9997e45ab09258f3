-- Stored diagnoses and the answers of shadow versions.

-- name: insert_diagnoses
-- Store diagnoses; stored ones stay unchanged.
insert into diagnoses (
    diagnosis_id, created_at, equipment_id, window_start, window_end, model_version, status, health,
    body
)
select * from unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
    $7::text[], $8::double precision[], $9::json[]
)
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
    against_latency_s, body
)
select * from unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
    $7::text[], $8::real[], $9::real[], $10::json[]
)
on conflict do nothing;
