-- The audit log.

-- name: append_audit
-- Append an entry of what is no row of the database; return its number.
select append_audit($1::text, $2::text, $3::jsonb, $4::text, $5::text);

-- name: audit_page
-- The newest $1 entries before an entry, newest first.
select payload from audit_log
where $2::bigint is null or entry_id < $2::bigint
order by entry_id desc
limit $1::integer;

-- name: audit_chain
-- The first $2 entries after an entry, oldest first, with their hashes.
select entry_id, payload, hash, tenant from audit_log
where entry_id > $1::bigint
order by entry_id
limit $2::integer;

-- name: audit_head
-- Number and hash of the newest entry as it was noted when that was written.
select entry_id, hash from audit_head;
