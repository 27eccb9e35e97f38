-- What was sent to a command while it ran.

alter table commands add column signals jsonb not null default '[]';
