-- As 0017_tenants.sql, with views: where a table has no policy because TimescaleDB could not
-- compress it then, the application's role reads and writes a view that has the condition.
create or replace function grant_application() returns void language plpgsql as $$
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
        where relnamespace = current_schema()::regnamespace
            and (
                relkind in ('r', 'p') and not relispartition
                    and relname not in ('diagnosis_rows', 'shadow_rows', 'component_health')
                or relkind = 'v' and relname in (
                    'diagnoses', 'shadow_answers', 'health_hourly', 'fleet_health_hourly',
                    'readings_per_minute'
                )
            )
    loop
        execute case
            when named in (
                'audit_log', 'audit_head', 'schema_migrations', 'health_hourly',
                'fleet_health_hourly', 'readings_per_minute', 'health_pending'
            )
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
