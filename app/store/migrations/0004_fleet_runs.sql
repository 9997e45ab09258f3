-- Runs over the whole fleet: what each was asked to do, so that one that was stopped goes on with the same. Its diagnoses
-- are those with its created_at, and their ids follow from its name.
create table fleet_runs (
    name text primary key,
    created_at timestamptz not null,
    plan jsonb not null
);
