-- Everything of one tenant: exported, removed, and counted afterwards.

-- name: export_equipment
-- Machines of a tenant as JSON, also deleted ones, with their sensors in the order of slots.
select to_jsonb(equipment) - 'equipment_key' || jsonb_build_object('sensors', (
    select jsonb_agg(sensor.sensor_id order by sensor.slot) from equipment_sensors sensor
    where sensor.equipment_key = equipment.equipment_key
)) as line
from equipment where tenant = $1::text order by equipment_id;

-- name: export_labels
-- Labels of a tenant's machines as JSON.
select to_jsonb(label) - 'equipment_key'
    || jsonb_build_object('equipment_id', equipment.equipment_id) as line
from equipment join condition_labels label using (equipment_key)
where equipment.tenant = $1::text
order by equipment.equipment_id, label.start_time, label.component_id;

-- name: export_maintenance
-- Maintenance of a tenant's machines as JSON.
select to_jsonb(done) - 'equipment_key'
    || jsonb_build_object('equipment_id', equipment.equipment_id) as line
from equipment join maintenance done using (equipment_key)
where equipment.tenant = $1::text
order by equipment.equipment_id, done.performed_at, done.maintenance_id;

-- name: export_baselines
-- Baselines of a tenant's machines as JSON.
select to_jsonb(known) - 'equipment_key'
    || jsonb_build_object('equipment_id', equipment.equipment_id) as line
from equipment join baselines known using (equipment_key)
where equipment.tenant = $1::text
order by equipment.equipment_id, known.baseline_key;

-- name: export_diagnoses
-- Diagnoses of a tenant as they were answered.
select body as line from diagnoses where tenant = $1::text order by created_at, diagnosis_id;

-- name: export_keys
-- Keys of a tenant as JSON, without anything of their secrets.
select jsonb_build_object(
    'key_id', key_id, 'name', name, 'scopes', scopes, 'created_at', created_at,
    'revoked_at', revoked_at, 'expires_at', expires_at
) as line
from api_keys where tenant = $1::text order by key_id;

-- name: export_audit
-- Entries of the audit log about a tenant.
select payload as line from audit_log where tenant = $1::text order by entry_id;

-- name: export_readings
-- Readings of one machine of a tenant by time.
select sensor.sensor_id, reading.time, reading.value
from equipment
join sensor_readings reading using (equipment_key)
join equipment_sensors sensor using (equipment_key, slot)
where equipment.tenant = $1::text and equipment.equipment_id = $2::text
order by reading.time, reading.slot;

-- name: tenant_machines
-- Ids of the machines of a tenant, and of those that only its diagnoses name.
select equipment_id from equipment where tenant = $1::text
union
select equipment_id from diagnoses where tenant = $1::text
order by equipment_id;

-- name: allow_decompression
-- Let the transaction change any number of compressed rows; unknown to plain PostgreSQL.
select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true);

-- name: remove_shadow_answers
-- Remove a tenant's answers of shadow versions that no stored diagnosis had.
delete from shadow_answers where tenant = $1::text;

-- name: remove_keys
-- Remove a tenant's keys.
delete from api_keys where tenant = $1::text;

-- name: remove_tenant
-- Remove a tenant that owns nothing any more; return its name.
delete from tenants where tenant = $1::text returning tenant;

-- name: tenant_rows
-- Numbers of rows that name a tenant; `kept` for records that are never removed.
select 'equipment' as name, count(*) as rows, false as kept from equipment where tenant = $1::text
union all
select 'diagnoses', count(*), false from diagnoses where tenant = $1::text
union all
select 'shadow_answers', count(*), false from shadow_answers where tenant = $1::text
union all
select 'health_hourly', count(*), false from health_hourly where tenant = $1::text
union all
select 'fleet_health_hourly', count(*), false from fleet_health_hourly where tenant = $1::text
union all
select 'api_keys', count(*), false from api_keys where tenant = $1::text
union all
select 'tenants', count(*), false from tenants where tenant = $1::text
union all
select 'audit_log', count(*), true from audit_log where tenant = $1::text
union all
select 'equipment_changes', count(*), true from equipment_changes where tenant = $1::text
union all
select 'reading_changes', count(*), true from reading_changes where tenant = $1::text;
