-- Traffic weights of designs with weights of their own, by design, then by version.
alter table releases
    add column designs jsonb not null default '{}';
