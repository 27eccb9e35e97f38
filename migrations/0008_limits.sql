-- What a command is limited in, and that it ended of it.

alter table commands
    add column limits jsonb not null default '{}',
    add column peak_memory_bytes bigint,
    drop constraint commands_reason,
    add constraint commands_reason check (reason in (
        'exit', 'signal', 'timeout', 'output_limit', 'memory', 'cpu', 'file_size', 'spawn', 'client', 'shutdown',
        'not_accepted', 'worker_died', 'host_died', 'journal_gone'
    ));
