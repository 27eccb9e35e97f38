-- Variables that are not recorded.

alter table commands
    add column secrets bytea,
    add column masked  integer;
