-- What is known of a component may be a grade, or a health, or that it ran from the start of the interval until it failed at its
-- end. A label says exactly one of the three.
alter table condition_labels
    alter column grade drop not null,
    add column health double precision check (health between 0 and 1),
    add column run_to_failure boolean not null default false,
    add constraint condition_labels_say_one_thing
        check (num_nonnulls(grade, health) + run_to_failure::integer = 1);
