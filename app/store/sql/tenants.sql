-- Tenants, and whose rows a transaction sees.

-- name: begin_session
-- Work as the application's role where this login may, and see the rows of all tenants; until the
-- transaction ends if $1, else in the session.
select
    set_config('hydraulic.tenant', '*', $1::boolean),
    (
        select set_config('role', rolname, $1::boolean)
        from pg_roles
        where rolname = 'hydraulic_application'
            and has_table_privilege(oid, to_regclass('equipment'), 'insert')
            and pg_has_role(oid, case
                when current_setting('server_version_num')::integer >= 160000 then 'SET'
                else 'MEMBER'
            end)
    );

-- name: act_for
-- See the rows of a tenant until the transaction ends (`*`: of all), as an actor.
select
    set_config('hydraulic.tenant', $1::text, true),
    set_config('hydraulic.actor', $2::text, true);

-- name: grant_application
-- Give the application's role its rights to new tables.
select grant_application();

-- name: create_tenant
-- Make a tenant; nothing if there is one of this name.
insert into tenants (tenant) values ($1::text) on conflict do nothing
returning tenant, created_at;

-- name: has_tenant
-- Whether there is a tenant of this name.
select exists (select from tenants where tenant = $1::text);

-- name: list_tenants
-- All tenants with the number of their registered equipment, by name.
select tenants.tenant, tenants.created_at, count(equipment.equipment_key) as equipment
from tenants
left join equipment on equipment.tenant = tenants.tenant and equipment.deleted_at is null
group by tenants.tenant, tenants.created_at
order by tenants.tenant;

-- name: move_equipment
-- Give equipment with its diagnoses and records to a tenant; return the ids that were found.
with moved as (
    update equipment set tenant = $1::text where equipment_id = any ($2::text[])
    returning equipment_id
),
followed as (
    select move_history($1::text, array(select equipment_id from moved)) as done
)
select moved.equipment_id from moved, followed order by moved.equipment_id;
