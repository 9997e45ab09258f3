-- The history of releases.

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
