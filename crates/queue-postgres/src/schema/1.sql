-- Schema 1: everything. Explained in docs/database-format.md.
CREATE TABLE grange_schema (version integer NOT NULL);

-- Written by acceptors, never changed, deleted by the owner when the message is retired.
CREATE TABLE message (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    created timestamptz NOT NULL DEFAULT clock_timestamp(),
    accepted_at bigint NOT NULL,
    accepted bytea NOT NULL,
    size bigint NOT NULL,
    crc bigint NOT NULL,
    body bytea,
    body_id text COLLATE "C"
);
-- A body belongs to one message.
CREATE UNIQUE INDEX message_body ON message (body_id) WHERE body_id IS NOT NULL;

-- Bodies over 256 KiB, and bodies of finished drafts, in pieces.
CREATE TABLE body (
    id text COLLATE "C" NOT NULL,
    seq integer NOT NULL,
    data bytea NOT NULL,
    crc bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, seq)
);

-- One row for each accept transaction: what is there has been done.
CREATE TABLE intake_batch (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Who owns the scheduler's rows: changed at a take-over only, and the lease that leads to it.
CREATE TABLE shard_epoch (
    shard smallint NOT NULL PRIMARY KEY,
    epoch bigint NOT NULL,
    owner text
);
CREATE TABLE shard_lease (
    shard smallint NOT NULL PRIMARY KEY,
    lease_until timestamptz NOT NULL,
    clean boolean NOT NULL
);
INSERT INTO shard_epoch (shard, epoch) VALUES (0, 0);
INSERT INTO shard_lease (shard, lease_until, clean) VALUES (0, '-infinity', true);

-- The scheduler's rows. Their keys begin with what tells rows apart: a server that has not looked at a table yet believes that each of
-- a column's values is rare, the shard's too.
CREATE TABLE routed (
    shard smallint NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    routing integer NOT NULL,
    handle text NOT NULL,
    facts bytea NOT NULL,
    hold text,
    held_by_hand boolean NOT NULL,
    strikes integer NOT NULL,
    reroute integer,
    owed bytea,
    PRIMARY KEY (message_id, shard)
);
CREATE TABLE recipient (
    shard smallint NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    index integer NOT NULL,
    channel text NOT NULL,
    host text NOT NULL,
    facts bytea NOT NULL,
    state bytea,
    told boolean NOT NULL,
    delay_reported boolean NOT NULL,
    PRIMARY KEY (message_id, index, shard)
);
CREATE TABLE suspended (
    shard smallint NOT NULL,
    channel text NOT NULL,
    host text NOT NULL,
    every boolean NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (shard, channel, host, every)
);
CREATE TABLE strike (
    shard smallint NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    handle text NOT NULL,
    strikes integer NOT NULL,
    hold text,
    PRIMARY KEY (message_id, shard)
);
