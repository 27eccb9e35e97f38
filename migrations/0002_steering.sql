-- What may be fed while it runs, and what was run again.

alter table commands
    add column stdin_open boolean not null default false,
    add column rerun_of   bigint;
