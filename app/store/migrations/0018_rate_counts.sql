-- What each ingress replica counted of the limits of a key in a window. Unlogged: a crash of the
-- database forgives what was counted in the last minutes.
create unlogged table rate_counts (
    window_key text not null,
    replica text not null,
    cost bigint not null,
    expires_at timestamptz not null,
    primary key (window_key, replica)
);
create index rate_counts_expires_at on rate_counts (expires_at);
