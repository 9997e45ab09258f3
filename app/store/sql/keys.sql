-- API keys.

-- name: create_key
-- Store a key with the hash of its secret.
insert into api_keys (name, shown, secret_sha256, scopes)
values ($1::text, $2::text, $3::bytea, $4::text[])
returning key_id, name, shown, scopes, created_at, revoked_at;

-- name: find_key
-- The key with a hash, unless it is revoked.
select key_id, name, shown, scopes, created_at, revoked_at
from api_keys
where secret_sha256 = $1::bytea and revoked_at is null;

-- name: revoke_key
-- Revoke a key for good.
update api_keys set revoked_at = coalesce(revoked_at, now()) where key_id = $1::integer
returning key_id;

-- name: list_keys
-- All keys, including revoked ones, oldest first.
select key_id, name, shown, scopes, created_at, revoked_at from api_keys order by key_id;

-- name: any_key
-- Whether a key that is not revoked exists.
select exists (select from api_keys where revoked_at is null);
