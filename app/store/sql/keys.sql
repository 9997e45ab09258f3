-- API keys.

-- name: lock_keys
-- Lock the set of keys until the transaction ends.
select pg_advisory_xact_lock(7207004, 0);

-- name: create_key
-- Store a key with the salted hash of its secret; nothing if a key in force has its name.
insert into api_keys (tenant, name, shown, handle, salt, secret_hash, scopes, expires_at)
values (
    $1::text, $2::text, $3::text, $4::text, $5::bytea, $6::bytea, $7::text[], $8::timestamptz
)
on conflict (tenant, name) where revoked_at is null do nothing
returning key_id, tenant, name, shown, scopes, created_at, expires_at, revoked_at, last_used_at;

-- name: find_key
-- The key with a handle, unless it is revoked or has expired, for how long it is in force, and
-- whether its use is to be noted.
select
    name,
    tenant,
    scopes,
    salt,
    secret_hash,
    extract(epoch from least(revoked_at, expires_at) - now())::double precision as valid_s,
    coalesce(last_used_at < now() - interval '1 minute', true) as is_noted_late
from api_keys
where handle = $1::text
    and (revoked_at is null or revoked_at > now())
    and (expires_at is null or expires_at > now());

-- name: note_key_use
-- Note that a key was used now.
update api_keys set last_used_at = now() where handle = $1::text;

-- name: revoke_key
-- Revoke a key for good.
update api_keys set revoked_at = coalesce(least(revoked_at, now()), now())
where key_id = $1::integer
returning key_id;

-- name: retire_key
-- Revoke the key of a name from some seconds on, and by then its older secrets that overlap.
with older as (
    update api_keys
    set revoked_at = least(revoked_at, now() + $3::double precision * interval '1 second')
    where tenant = $1::text and name = $2::text and revoked_at > now()
)
update api_keys set revoked_at = now() + $3::double precision * interval '1 second'
where tenant = $1::text and name = $2::text and revoked_at is null
returning scopes, expires_at;

-- name: admins_in_force
-- Names of a tenant's keys in force that have the scope admin, and whether each has no expiry.
select name, expires_at is null as is_lasting from api_keys
where tenant = $1::text and revoked_at is null and 'admin' = any (scopes)
    and (expires_at is null or expires_at > now());

-- name: list_keys
-- All keys, also revoked and expired ones, oldest first.
select key_id, tenant, name, shown, scopes, created_at, expires_at, revoked_at, last_used_at
from api_keys
order by key_id;

-- name: key_page
-- The first $3 of a tenant's keys after a key id.
select key_id, tenant, name, shown, scopes, created_at, expires_at, revoked_at, last_used_at
from api_keys
where tenant = $1::text and key_id > $2::integer
order by key_id
limit $3::integer;

-- name: any_key
-- Whether a key that is not revoked exists.
select exists (select from api_keys where revoked_at is null);
