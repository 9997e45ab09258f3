-- Baselines of machines: moments of their sensors over an interval declared healthy. Rows are never
-- changed but for their deletion, so that a diagnosis can name the baseline that it was made with.
create table baselines (
    baseline_key bigint generated always as identity primary key,
    equipment_key integer not null references equipment,
    -- A hash of the machine, the interval and the moments.
    baseline_id text not null,
    start_time timestamptz not null,
    end_time timestamptz not null check (end_time > start_time),
    windows integer not null check (windows > 0),
    missing_sensors text[] not null,
    stuck_sensors text[] not null,
    moments json not null,
    recorded_at timestamptz not null default now(),
    recorded_by text not null,
    deleted_at timestamptz,
    deleted_by text
);
create unique index baselines_in_force on baselines (equipment_key) where deleted_at is null;
create index baselines_by_id on baselines (baseline_id);
