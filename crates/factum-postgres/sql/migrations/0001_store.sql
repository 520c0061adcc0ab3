-- The event store. `factum` stands for the schema that the store was given.

-- The log itself: one row.
CREATE TABLE factum.log (
    the_one           boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    log_id            uuid    NOT NULL,
    epoch             bigint  NOT NULL,
    -- Where the epoch was begun; elsewhere, history may have been rewound. A cluster and its timeline, which a promoted standby and
    -- a recovery to a point in time change (null where the server does not tell); the oids of the database and of this table, which
    -- a dump does not carry; and the id of the transaction that wrote this row, which a restored copy was not written by.
    system_identifier bigint,
    timeline          integer,
    database_oid      oid     NOT NULL,
    log_oid           oid     NOT NULL,
    written_by        xid     NOT NULL
);

-- The epochs that have ended.
CREATE TABLE factum.epochs (
    epoch        bigint PRIMARY KEY,
    ended_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The last event that was there when the next one began.
    found        bigint NOT NULL,
    -- What an operator has said: tokens of this epoch go on to be valid up to here.
    continued_to bigint CHECK (continued_to BETWEEN 0 AND found)
);

-- The last position that was drawn, and the last moment. Neither goes back when a transaction does: both are only read and
-- moved in `allocate`.
CREATE SEQUENCE factum.position AS bigint MINVALUE 0 CACHE 1;
SELECT setval('factum.position', 0);
CREATE SEQUENCE factum.recorded_at AS bigint MINVALUE 0 CACHE 1;
SELECT setval('factum.recorded_at', 0);

-- What is known of each stream: its row is locked by whoever writes to it or relies on it.
CREATE TABLE factum.streams (
    name            text COLLATE "C" PRIMARY KEY,
    last_revision   bigint,
    hidden_before   bigint   NOT NULL DEFAULT 0,
    hidden_until    bigint,
    truncate_before bigint,
    max_count       bigint,
    max_age_seconds bigint,
    -- 0: live, 1: deleted, 2: tombstoned.
    life            smallint NOT NULL DEFAULT 0 CHECK (life BETWEEN 0 AND 2)
);

-- Revisions of a stream have no holes, and its last one changes with each append: leave room for that in each page.
ALTER TABLE factum.streams SET (fillfactor = 70);

CREATE TABLE factum.events (
    position       bigint PRIMARY KEY,
    stream         text COLLATE "C" NOT NULL,
    revision       bigint   NOT NULL,
    -- Microseconds since 1970. It never runs backwards along positions.
    recorded_at    bigint   NOT NULL,
    id             uuid     NOT NULL,
    -- Empty where the content was removed by a scavenge: then the event is hidden for good.
    event_type     text COLLATE "C" NOT NULL,
    category       text COLLATE "C" NOT NULL,
    content_type   text     NOT NULL,
    -- JSON is kept as jsonb where that keeps its value to the last digit, and as bytes where it does not.
    data           jsonb,
    data_bytes     bytea,
    metadata       jsonb,
    metadata_bytes bytea,
    tags           text[] COLLATE "C" NOT NULL,
    -- Of the canonical content: an event sent again is known by it, also when its content has been removed.
    digest         bytea    NOT NULL,
    UNIQUE (stream, revision),
    UNIQUE (stream, id)
);
CREATE INDEX events_by_tag ON factum.events USING gin (tags) WITH (fastupdate = off);
CREATE INDEX events_by_category ON factum.events (category, position);
CREATE INDEX events_by_type ON factum.events (event_type, position);
CREATE INDEX events_removed ON factum.events (stream, revision) WHERE event_type = '';
CREATE INDEX events_by_time ON factum.events (recorded_at, position);

-- A position as the second half of an advisory lock's key, and back: the position nearest to `drawn` of which these are the low
-- 32 bits, before it or after it (others draw meanwhile). That is right as long as no transaction lives through 2^31 positions.
CREATE FUNCTION factum.fence_key(at_position bigint) RETURNS integer IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql
    RETURN ((at_position & 4294967295) - CASE WHEN at_position & 2147483648 <> 0 THEN 4294967296 ELSE 0 END)::integer;
CREATE FUNCTION factum.fence_position(key oid, drawn bigint) RETURNS bigint IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql
    RETURN drawn + ((key::bigint - drawn + 2147483648) & 4294967295) - 2147483648;

-- The present moment, as readers and retention see it: never before the last event.
CREATE FUNCTION factum.moment() RETURNS bigint VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    recorded bigint;
BEGIN
    SELECT last_value INTO recorded FROM factum.recorded_at;
    RETURN greatest(recorded, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
END $$;

-- Where this is: see `factum.log`.
CREATE FUNCTION factum.here(OUT system_identifier bigint, OUT timeline integer, OUT database_oid oid, OUT log_oid oid)
    VOLATILE LANGUAGE plpgsql AS $$
BEGIN
    -- A server that somebody else operates may keep these to itself.
    BEGIN
        SELECT c.system_identifier INTO here.system_identifier FROM pg_control_system() c;
    EXCEPTION WHEN OTHERS THEN
        system_identifier := NULL;
    END;
    BEGIN
        -- Of what is written at this moment: what `pg_control_checkpoint` says is older just after a promotion.
        timeline := ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer;
    EXCEPTION WHEN OTHERS THEN
        timeline := NULL;
    END;
    SELECT d.oid INTO here.database_oid FROM pg_database d WHERE d.datname = current_database();
    log_oid := 'factum.log'::regclass::oid;
END $$;

-- Whether this is where the epoch was begun.
CREATE FUNCTION factum.is_where_it_was() RETURNS boolean VOLATILE LANGUAGE sql AS $$
    SELECT (l.system_identifier = h.system_identifier) IS NOT FALSE AND (l.timeline = h.timeline) IS NOT FALSE
       AND l.database_oid = h.database_oid AND l.log_oid = h.log_oid AND l.written_by = l.xmin
    FROM factum.log l, factum.here() h
$$;

-- Ends the epoch and begins a new one, unless this is where the epoch was begun. Whether it did. `anyway`: also then.
CREATE FUNCTION factum.begin_epoch(anyway boolean) RETURNS boolean VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    place record;
    last  bigint;
BEGIN
    -- One does it; who waited finds it done.
    PERFORM FROM factum.log FOR UPDATE;
    IF NOT anyway AND factum.is_where_it_was() THEN
        RETURN false;
    END IF;
    -- By hand, appends that are on their way end first, and none begins: 256 is the place that each of them takes shared. After a
    -- failover none is, but for prepared ones, which may wait for long. Nobody draws meanwhile in any case.
    IF anyway THEN
        PERFORM factum.meet('{}', '{256}');
    END IF;
    PERFORM pg_advisory_xact_lock('factum.log'::regclass::oid::integer, 0);
    SELECT coalesce(max(position), 0) INTO last FROM factum.events;
    INSERT INTO factum.epochs (epoch, found) SELECT epoch, last FROM factum.log;
    SELECT * INTO place FROM factum.here();
    -- No two histories share a number, also if each began on its own: hence the moment.
    UPDATE factum.log SET
        epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
        system_identifier = place.system_identifier, timeline = place.timeline,
        database_oid = place.database_oid, log_oid = place.log_oid,
        written_by = pg_current_xact_id()::xid;
    -- Not every copy takes sequences along.
    PERFORM setval('factum.position', greatest(last, (SELECT last_value FROM factum.position)));
    PERFORM setval('factum.recorded_at', greatest((SELECT last_value FROM factum.recorded_at),
        (SELECT coalesce(max(recorded_at), 0) FROM factum.events)));
    RETURN true;
END $$;

-- What appenders have announced: each holds a lock that says 'I draw positions beyond this one only'.
CREATE VIEW factum.fences AS
    SELECT l.objid AS key, l.pid
    FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
      AND l.classid = 'factum.events'::regclass::oid
      AND l.mode = 'ExclusiveLock'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- The last event before which nothing will appear any more. Three moments, in this order: what was drawn, what is announced,
-- and, in a LATER statement, the events up to there. In one statement, an appender that commits between the first two would be
-- missed for ever. It is an event and not what was drawn, since whoever saw an event saw something durable: what was drawn and
-- given up may be drawn again after a crash, and who had come so far would pass over it.
CREATE FUNCTION factum.safe_head() RETURNS bigint VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    drawn     bigint;
    announced bigint;
    safe      bigint;
BEGIN
    SELECT last_value INTO drawn FROM factum.position;
    SELECT min(factum.fence_position(key, drawn)) INTO announced FROM factum.fences;
    SELECT max(position) INTO safe FROM factum.events WHERE position <= least(drawn, announced);
    RETURN coalesce(safe, 0);
END $$;

-- Waits until nothing will appear any more at or before a position that was drawn: until everybody who announced less is done. It
-- tells how far that is so, which may be further; after a quarter of a second it may be less. And it tells what was drawn.
CREATE FUNCTION factum.settle(at_position bigint, OUT settled bigint, OUT drawn bigint) VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    announced bigint;
BEGIN
    PERFORM set_config('lock_timeout', '250ms', true);
    LOOP
        SELECT last_value INTO drawn FROM factum.position;
        SELECT min(factum.fence_position(key, drawn)) INTO announced FROM factum.fences WHERE pid IS DISTINCT FROM pg_backend_pid();
        settled := least(drawn, announced);
        IF announced IS NULL OR announced >= at_position THEN
            RETURN;
        END IF;
        -- Granted when that appender is done, and given back with the transaction.
        BEGIN
            PERFORM pg_advisory_xact_lock_shared('factum.events'::regclass::oid::integer, factum.fence_key(announced));
        EXCEPTION WHEN lock_not_available THEN
            RETURN;
        END;
    END LOOP;
END $$;

-- Draws so many positions in a row, and the moment at which they are recorded. It announces first, and only then draws.
CREATE FUNCTION factum.allocate(count bigint, OUT first bigint, OUT moment bigint) VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    gate    CONSTANT integer := 'factum.log'::regclass::oid::integer;
    fences  CONSTANT integer := 'factum.events'::regclass::oid::integer;
    tries   integer := 0;
    last    bigint;
    nothing text;
BEGIN
    BEGIN
        -- Held for these few expressions, not to the end of the transaction: runs of positions do not mix, and time goes their
        -- way. It is the session's own, so that whoever is interrupted anywhere between must give it back; and one that is
        -- interrupted as it takes it may have it or not. Where many want it, whoever queues is woken with it in hand, and while
        -- it comes to a processor all others wait: so it is tried a while before that.
        WHILE NOT pg_try_advisory_lock(gate, 0) LOOP
            tries := tries + 1;
            IF tries = 1000 THEN
                nothing := pg_advisory_lock(gate, 0);
                EXIT;
            ELSIF tries % 20 = 0 THEN
                nothing := pg_sleep(0.0001);
            END IF;
        END LOOP;
        last := pg_sequence_last_value('factum.position');
        nothing := pg_advisory_xact_lock(fences, factum.fence_key(last));
        first := last + 1;
        nothing := setval('factum.position', last + count);
        moment := greatest(pg_sequence_last_value('factum.recorded_at'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
        nothing := setval('factum.recorded_at', moment);
        nothing := pg_advisory_unlock(gate, 0);
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        PERFORM pg_advisory_unlock(gate, 0);
        RAISE;
    END;
END $$;

-- Locks the places where appends and guards on queries meet, in one order for all: an append takes those of its events shared, a
-- guard takes the one of each thing that it asks for alone.
CREATE FUNCTION factum.meet(shared integer[], alone integer[]) RETURNS void VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    places CONSTANT integer := 'factum.streams'::regclass::oid::integer;
    place   record;
BEGIN
    FOR place IN
        SELECT key, bool_or(exclusive) AS exclusive
        FROM (SELECT unnest(shared) AS key, false AS exclusive UNION ALL SELECT unnest(alone), true) AS wanted
        GROUP BY key ORDER BY key
    LOOP
        IF place.exclusive THEN
            PERFORM pg_advisory_xact_lock(places, place.key);
        ELSE
            PERFORM pg_advisory_xact_lock_shared(places, place.key);
        END IF;
    END LOOP;
END $$;

-- Locks streams, in the order of their names, and says what is known of them. Those never heard of get a row.
CREATE FUNCTION factum.lock_streams(names text[]) RETURNS SETOF factum.streams VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    known bigint;
BEGIN
    PERFORM 1 FROM factum.streams WHERE name = ANY (names) ORDER BY name FOR UPDATE;
    GET DIAGNOSTICS known = ROW_COUNT;
    IF known < cardinality(names) THEN
        INSERT INTO factum.streams (name) SELECT unnest(names) ON CONFLICT DO NOTHING;
        PERFORM 1 FROM factum.streams WHERE name = ANY (names) ORDER BY name FOR UPDATE;
    END IF;
    -- A later statement than the one that waited: it sees what those waited for have done.
    RETURN QUERY SELECT * FROM factum.streams WHERE name = ANY (names);
END $$;

-- Writes events at the end of the log, in this order, and what their streams have become. `first` and `moment` are those of an
-- earlier `allocate`, or null.
CREATE FUNCTION factum.record(
    INOUT first bigint, INOUT moment bigint,
    streams text[], revisions bigint[], ids uuid[], types text[], categories text[], content_types text[],
    data text[], data_bytes bytea[], metadata text[], metadata_bytes bytea[], packed_tags text[], digests bytea[],
    names text[], last_revisions bigint[], hidden_befores bigint[], hidden_untils bigint[],
    truncate_befores bigint[], max_counts bigint[], max_ages bigint[], lives smallint[]
) VOLATILE LANGUAGE plpgsql AS $$
BEGIN
    IF first IS NULL THEN
        SELECT a.first, a.moment INTO record.first, record.moment FROM factum.allocate(cardinality(ids)) a;
    END IF;
    INSERT INTO factum.events
        SELECT record.first + e.n - 1, e.stream, e.revision, record.moment, e.id, e.event_type, e.category, e.content_type,
               e.data::jsonb, e.data_bytes, e.metadata::jsonb, e.metadata_bytes,
               -- Tags have no control characters.
               CASE WHEN e.tags = '' THEN '{}' ELSE string_to_array(e.tags, E'\x1f') END, e.digest
        FROM unnest(streams, revisions, ids, types, categories, content_types,
                    data, data_bytes, metadata, metadata_bytes, packed_tags, digests) WITH ORDINALITY
             AS e (stream, revision, id, event_type, category, content_type,
                   data, data_bytes, metadata, metadata_bytes, tags, digest, n);
    UPDATE factum.streams s
        SET last_revision = n.last_revision, hidden_before = n.hidden_before, hidden_until = n.hidden_until,
            truncate_before = n.truncate_before, max_count = n.max_count, max_age_seconds = n.max_age_seconds,
            life = n.life
        FROM unnest(names, last_revisions, hidden_befores, hidden_untils, truncate_befores, max_counts, max_ages, lives)
             AS n (name, last_revision, hidden_before, hidden_until, truncate_before, max_count, max_age_seconds, life)
        WHERE s.name = n.name;
END $$;

-- Appends to one stream, in a statement of its own, where nothing is out of the ordinary: no read model is inline, it is live, keeps
-- all of its events and is as expected (-1: never written, -2: anything; else its last revision). Otherwise it writes nothing and gives
-- nothing: the contract then decides, where it stands. An id that is there already is a unique violation.
CREATE FUNCTION factum.append_plain(
    stream text, expected bigint, places integer[],
    ids uuid[], types text[], category text, content_types text[],
    data text[], data_bytes bytea[], metadata text[], metadata_bytes bytea[], packed_tags text[], digests bytea[],
    OUT first bigint, OUT first_revision bigint, OUT epoch bigint
) VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    kind   CONSTANT integer := 'factum.streams'::regclass::oid::integer;
    count  CONSTANT bigint := cardinality(ids);
    place   integer;
    last    bigint;
    moment  bigint;
    inline  boolean;
    nothing text;
BEGIN
    -- In the order in which everybody takes them: places, the stream, and then the announcement.
    FOREACH place IN ARRAY places LOOP
        nothing := pg_advisory_xact_lock_shared(kind, place);
    END LOOP;
    -- Read models that change with it are more than this can do. Nobody switches one on from here to the end.
    SELECT l.epoch, EXISTS (SELECT FROM factum.models m WHERE m.inline) INTO append_plain.epoch, inline
        FROM factum.log l WHERE l.tableoid = l.log_oid AND l.xmin = l.written_by;
    -- Nor where the log has been put there from elsewhere.
    IF inline IS NOT FALSE THEN
        RETURN;
    END IF;
    UPDATE factum.streams s SET last_revision = coalesce(s.last_revision, -1) + count
        WHERE s.name = append_plain.stream AND s.life = 0 AND s.max_count IS NULL
          AND CASE expected WHEN -2 THEN true WHEN -1 THEN s.last_revision IS NULL
                            ELSE s.last_revision = expected END
        RETURNING s.last_revision INTO last;
    IF last IS NULL AND expected < 0 THEN
        INSERT INTO factum.streams AS s (name, last_revision) VALUES (append_plain.stream, count - 1)
            ON CONFLICT DO NOTHING RETURNING s.last_revision INTO last;
    END IF;
    IF last IS NULL THEN
        RETURN;
    END IF;
    first_revision := last - count + 1;
    SELECT a.first, a.moment INTO append_plain.first, moment FROM factum.allocate(count) a;
    INSERT INTO factum.events
        SELECT append_plain.first + e.n - 1, append_plain.stream, first_revision + e.n - 1, moment, e.id, e.event_type,
               append_plain.category, e.content_type, e.data::jsonb, e.data_bytes, e.metadata::jsonb, e.metadata_bytes,
               CASE WHEN e.tags = '' THEN '{}' ELSE string_to_array(e.tags, E'\x1f') END, e.digest
        FROM unnest(ids, types, content_types, data, data_bytes, metadata, metadata_bytes, packed_tags, digests) WITH ORDINALITY
             AS e (id, event_type, content_type, data, data_bytes, metadata, metadata_bytes, tags, digest, n);
END $$;
