-- The history of releases.

-- name: record_release
-- Add an event to the history of releases.
insert into releases (version, action, weights, designs, actor, reason)
values ($1::text, $2::text, $3::jsonb, $4::jsonb, $5::text, $6::text)
returning release_id, released_at;

-- name: list_releases
-- The history of releases, newest first, from the one before an id; null begins with the newest.
select release_id, released_at, version, action, weights, designs, actor, reason
from releases
where release_id < coalesce($2::bigint, 9223372036854775807)
order by release_id desc
limit $1::integer;
