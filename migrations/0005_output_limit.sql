-- What becomes of a command that prints more than is kept.

alter table commands
    add column on_output_limit text not null default 'truncate' check (on_output_limit in ('truncate', 'fail'));
