-- Tenants at the cost of none where windows are read.

-- Whether the transaction sees equipment with this key. A look-up for each row: of a subquery, the
-- planner would make a hash table of all equipment of the tenant, for a statement about one
-- machine.
create function sees_equipment(key integer) returns boolean
language plpgsql stable parallel safe as $$
begin
    return current_setting('hydraulic.tenant', true) = '*'
        or exists (select from equipment where equipment_key = key and sees(tenant));
end
$$;

do $$
declare
    named text;
begin
    foreach named in array array[
        'condition_labels', 'baselines', 'maintenance', 'operating_counters', 'replaced_topologies'
    ] loop
        execute format('drop policy tenant_rows on %I', named);
        execute format(
            'create policy tenant_rows on %I using (sees_equipment(equipment_key))', named
        );
    end loop;
end
$$;

-- What read_windows returns of a tenant's machines (`*`: of all), with the revision of the topology
-- and the baseline in force, in the order of the arguments. It sets the tenant itself, for its
-- statement alone: a transaction around it would take three round trips more.
create function read_windows_of(
    tenant text, equipment_ids text[], firsts bigint[], counts bigint[]
) returns table (
    grid_us bigint, slot_sensors text[], times bytea, vals bytea, newest timestamptz, revision text,
    baseline_id text
) language plpgsql as $$
begin
    perform set_config('hydraulic.tenant', tenant, true);
    return query
    select
        found.grid_us, found.slot_sensors, found.times, found.vals, found.newest,
        equipment.revision, baselines.baseline_id
    from read_windows(equipment_ids, firsts, counts)
        with ordinality as found (grid_us, slot_sensors, times, vals, newest, position)
    join unnest(equipment_ids) with ordinality
        as requested (equipment_id, position) using (position)
    left join equipment
        on equipment.equipment_id = requested.equipment_id and equipment.deleted_at is null
    left join baselines
        on baselines.equipment_key = equipment.equipment_key and baselines.deleted_at is null
    order by position;
end
$$;
