-- The place in a trace that the request of a command named.

alter table commands
    add column traceparent text;
