-- Requests that may be repeated, lists that are quick at any size, commands that are removed.

alter table commands
    add column idempotency_key text,
    add column request_digest bytea,
    add constraint commands_idempotency check ((idempotency_key is null) = (request_digest is null));
create index commands_created_at_id on commands (created_at, id);
create index commands_name_id on commands (name, id desc) where name is not null;
create unique index commands_idempotency_key on commands (idempotency_key) where idempotency_key is not null;

create table labels (
    name       text   not null,
    value      text   not null,
    command_id bigint not null,
    primary key (name, value, command_id)
);
insert into labels (name, value, command_id)
select label.key, label.value, commands.id from commands, jsonb_each_text(labels) as label;

create table ends (
    status text   not null,
    count  bigint not null
);
insert into ends (status, count) select status, count(*) from commands where ended_at is not null group by status;

create table removed (
    command_id bigint primary key
);
alter table output drop constraint output_command_id_fkey;
