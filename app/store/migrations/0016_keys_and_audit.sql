-- Tenants, salted hashes of keys, and the audit log.

create table tenants (
    tenant text primary key check (tenant ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    created_at timestamptz not null default now()
);
insert into tenants (tenant) values ('default');

-- Who works, as the application says for each transaction: the tenant that owns new rows, and the
-- actor that the audit log names. `*` is the service itself.
create function acting_tenant() returns text language sql stable as $$
    select coalesce(
        nullif(nullif(current_setting('hydraulic.tenant', true), '*'), ''), 'default'
    )
$$;
create function acting_name() returns text language sql stable as $$
    select coalesce(nullif(current_setting('hydraulic.actor', true), ''), session_user)
$$;

-- A row is found by the handle that a secret begins with. Secrets made before have none: theirs is
-- the start of their SHA-256, which is what the application works out for them. The hash is
-- sha256(salt || sha256(secret)), so that keys from before keep working.
alter table api_keys
    add column tenant text not null default 'default' references tenants,
    add column handle text,
    add column salt bytea check (octet_length(salt) = 16),
    add column secret_hash bytea check (octet_length(secret_hash) = 32);
update api_keys set
    handle = encode(substring(secret_sha256 for 8), 'hex'),
    salt = uuid_send(gen_random_uuid());
update api_keys set secret_hash = sha256(salt || secret_sha256);
alter table api_keys
    alter column handle set not null,
    alter column salt set not null,
    alter column secret_hash set not null,
    add constraint api_keys_handle unique (handle),
    drop column secret_sha256;
drop index api_keys_in_force;
create unique index api_keys_in_force on api_keys (tenant, name) where revoked_at is null;

-- Each entry's hash covers its payload and the hash of the entry before it, so that an entry that
-- was changed, removed or inserted breaks the chain. The columns beside the payload are made of it.
create table audit_log (
    entry_id bigint primary key,
    payload text not null,
    hash bytea not null check (octet_length(hash) = 32),
    tenant text not null generated always as (payload::jsonb ->> 'tenant') stored
);
create index audit_log_of_tenant on audit_log (tenant, entry_id desc);
create trigger append_only before update or delete or truncate on audit_log
    for each statement execute function refuse_change();

-- The newest entry; its row is also the lock that orders writers.
create table audit_head (
    only_row boolean primary key default true check (only_row),
    entry_id bigint not null,
    hash bytea not null
);
insert into audit_head (entry_id, hash) values (0, decode(repeat('00', 32), 'hex'));

-- Append an entry; return its number. It runs with the rights of the tables' owner, so that the
-- application needs no right to write entries by other means.
create function append_audit(
    action text, subject text, details jsonb, tenant text, actor text
) returns bigint language plpgsql security definer as $$
declare
    entry bigint;
    before bytea;
    body text;
    after bytea;
begin
    select head.entry_id + 1, head.hash into entry, before from audit_head head for update;
    body := jsonb_build_object(
        'entry_id', entry,
        'at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'tenant', tenant, 'actor', actor, 'action', action, 'subject', subject,
        'details', jsonb_strip_nulls(details)
    )::text;
    after := sha256(before || convert_to(body, 'UTF8'));
    insert into audit_log (entry_id, payload, hash) values (entry, body, after);
    update audit_head set entry_id = entry, hash = after;
    return entry;
end
$$;

-- A function with its owner's rights finds its tables in this schema and nowhere else.
do $$
begin
    execute format(
        'alter function append_audit(text, text, jsonb, text, text) set search_path = %I, pg_temp',
        current_schema()
    );
end
$$;
