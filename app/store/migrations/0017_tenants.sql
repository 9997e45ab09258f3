-- Each tenant sees its own equipment: row-level security, also for the owner of the tables.
--
-- sensor_readings, sensor_grid and equipment_sensors have no policy of their own: every statement
-- finds their equipment_key in `equipment`, which has one. TimescaleDB compresses no table with a
-- policy, and a policy on the rows of a window would be worked out for each of them.

alter table equipment
    add column tenant text not null default acting_tenant() references tenants;
alter table diagnoses add column tenant text not null default 'default';
alter table shadow_answers add column tenant text not null default 'default';
alter table equipment_changes add column tenant text not null default 'default';
alter table reading_changes add column tenant text not null default 'default';

-- The tenant whose rows a transaction sees; `*` for all, nothing where the application said none.
create function sees(tenant text) returns boolean language sql stable parallel safe as $$
    select current_setting('hydraulic.tenant', true) in (tenant, '*')
$$;

-- A record about equipment belongs to the tenant of the equipment, also where the service or the
-- command line writes it.
create function own_by_equipment() returns trigger language plpgsql as $$
begin
    new.tenant := coalesce(
        (select found.tenant from equipment found where found.equipment_id = new.equipment_id),
        acting_tenant()
    );
    return new;
end
$$;
create trigger owned before insert on equipment_changes
    for each row execute function own_by_equipment();
create trigger owned before insert on reading_changes
    for each row execute function own_by_equipment();

do $$
declare
    named text;
begin
    foreach named in array array[
        'equipment', 'diagnoses', 'shadow_answers', 'equipment_changes', 'reading_changes',
        'api_keys', 'tenants'
    ] loop
        execute format('alter table %I enable row level security', named);
        execute format('alter table %I force row level security', named);
        execute format(
            'create policy tenant_rows on %I using (sees(tenant)) with check (sees(tenant))', named
        );
    end loop;
    foreach named in array array[
        'condition_labels', 'baselines', 'maintenance', 'operating_counters', 'replaced_topologies'
    ] loop
        execute format('alter table %I enable row level security', named);
        execute format('alter table %I force row level security', named);
        execute format(
            'create policy tenant_rows on %1$I using (exists (
                select from equipment
                where equipment.equipment_key = %1$I.equipment_key
            ))', named
        );
    end loop;
end
$$;

-- Entries are appended for any tenant and read by their own.
alter table audit_log enable row level security;
alter table audit_log force row level security;
create policy tenant_rows on audit_log for select using (sees(tenant));
create policy appended on audit_log for insert with check (true);

-- Audit administrative writes of every caller. The triggers are deferred: the lock on the head
-- of the log is held from the end of a transaction only.
create function audit_row() returns trigger language plpgsql as $$
declare
    machine record;
begin
    case tg_table_name
    when 'tenants' then
        perform append_audit(
            case tg_op when 'INSERT' then 'create_tenant' else 'remove_tenant' end,
            case tg_op when 'INSERT' then new.tenant else old.tenant end,
            '{}', 'default', acting_name()
        );
    when 'api_keys' then
        if tg_op = 'INSERT' then
            perform append_audit('create_key', new.name, jsonb_build_object(
                'key_id', new.key_id, 'scopes', new.scopes, 'expires_at', new.expires_at
            ), new.tenant, acting_name());
        elsif tg_op = 'DELETE' then
            perform append_audit('remove_key', old.name, jsonb_build_object(
                'key_id', old.key_id
            ), old.tenant, acting_name());
        else
            perform append_audit(
                case when new.revoked_at is distinct from old.revoked_at
                    then 'revoke_key' else 'change_key' end,
                new.name,
                jsonb_build_object('key_id', new.key_id, 'revoked_at', new.revoked_at),
                new.tenant, acting_name()
            );
        end if;
    when 'releases' then
        perform append_audit('release_' || new.action, new.version, jsonb_build_object(
            'release_id', new.release_id, 'weights', new.weights, 'designs', new.designs,
            'reason', new.reason
        ), 'default', new.actor);
    when 'equipment' then
        if tg_op = 'INSERT' then
            perform append_audit('register_equipment', new.equipment_id, jsonb_build_object(
                'revision', new.revision
            ), new.tenant, acting_name());
        elsif new.tenant <> old.tenant then
            perform append_audit('move_equipment', new.equipment_id, jsonb_build_object(
                'from', old.tenant, 'to', new.tenant
            ), new.tenant, acting_name());
        elsif new.revision <> old.revision or new.metadata <> old.metadata then
            perform append_audit('change_equipment', new.equipment_id, jsonb_build_object(
                'revision', new.revision, 'revision_before', old.revision
            ), new.tenant, acting_name());
        end if;
    when 'equipment_changes' then
        perform append_audit(
            case new.action when 'deleted' then 'delete_equipment'
                when 'restored' then 'restore_equipment' else 'purge_equipment' end,
            new.equipment_id, new.details, new.tenant,
            coalesce(nullif(new.actor, ''), acting_name())
        );
    when 'reading_changes' then
        perform append_audit(new.action || '_of_readings', new.equipment_id, jsonb_build_object(
            'start', new.start_time, 'end', new.end_time, 'removed', new.removed,
            'written', new.written
        ), new.tenant, coalesce(nullif(new.actor, ''), acting_name()));
    when 'baselines' then
        select equipment_id, tenant into machine
        from equipment where equipment_key = new.equipment_key;
        perform append_audit(
            case tg_op when 'INSERT' then 'record_baseline' else 'end_baseline' end,
            machine.equipment_id,
            jsonb_build_object('baseline_id', new.baseline_id),
            coalesce(machine.tenant, acting_tenant()),
            coalesce(new.deleted_by, new.recorded_by)
        );
    end case;
    return null;
end
$$;
create constraint trigger audited after insert or delete on tenants
    deferrable initially deferred for each row execute function audit_row();
create constraint trigger audited
    after insert or delete or update of
        tenant, name, handle, salt, secret_hash, scopes, revoked_at, expires_at on api_keys
    deferrable initially deferred for each row execute function audit_row();
create constraint trigger audited after insert on releases
    deferrable initially deferred for each row execute function audit_row();
create constraint trigger audited
    after insert or update of tenant, revision, metadata on equipment
    deferrable initially deferred for each row execute function audit_row();
create constraint trigger audited after insert on equipment_changes
    deferrable initially deferred for each row execute function audit_row();
create constraint trigger audited after insert on reading_changes
    deferrable initially deferred for each row execute function audit_row();
create constraint trigger audited after insert or update of deleted_at on baselines
    deferrable initially deferred for each row execute function audit_row();

-- The application works as a role that owns no table, so that row-level security holds for it also
-- where its login is a superuser's, as on the local server. A login that may not create roles goes
-- on as the owner, whom FORCE subjects to the policies.
do $$
begin
    if not exists (select from pg_roles where rolname = 'hydraulic_application') then
        create role hydraulic_application nologin;
    end if;
exception
    when insufficient_privilege then
        raise warning 'role hydraulic_application was not created: its owner''s rights are used';
    when duplicate_object or unique_violation then
        null; -- another database of this server was migrated meanwhile
end
$$;

-- Give the application's role its rights to the tables of this schema; later migrations add tables.
-- Not to partitions: these are reached through their table, which has the policies.
create function grant_application() returns void language plpgsql as $$
declare
    named text;
begin
    if not exists (select from pg_roles where rolname = 'hydraulic_application') then
        return;
    end if;
    if not (select rolsuper from pg_roles where rolname = current_user) then
        execute format('grant hydraulic_application to %I', current_user);
    end if;
    execute format('grant usage on schema %I to hydraulic_application', current_schema());
    for named in
        select relname from pg_class
        where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
            and not relispartition
    loop
        execute case
            when named in ('audit_log', 'audit_head', 'schema_migrations')
                then format('grant select on %I to hydraulic_application', named)
            when named = 'reading_changes' or named = 'equipment_changes'
                then format('grant select, insert on %I to hydraulic_application', named)
            else format(
                'grant select, insert, update, delete on %I to hydraulic_application', named
            )
        end;
    end loop;
exception
    when insufficient_privilege or invalid_grant_operation then
        raise warning 'rights were not granted to hydraulic_application: %', sqlerrm;
end
$$;

-- Partitions are made and dropped with the rights of the tables' owner.
do $$
declare
    named text;
begin
    foreach named in array array['prepare_months(timestamptz[])', 'drop_before(timestamptz)'] loop
        execute format('alter function %s security definer', named);
        execute format(
            'alter function %s set search_path = %I, pg_temp', named, current_schema()
        );
    end loop;
end
$$;
