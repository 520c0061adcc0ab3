-- Read models and snapshots. `factum` stands for the schema that the store was given, and `factum_reads` for the one beside it:
-- the models' own tables and views lie there, so that none is ever called like a table of the store.

DO $$ BEGIN
    -- One that a role without the right to make schemas was given is taken as it is.
    IF to_regnamespace('factum_reads') IS NULL THEN
        CREATE SCHEMA factum_reads;
    END IF;
END $$;

-- What is known of the models. Whoever changes one locks its row.
CREATE TABLE factum.models (
    model    text COLLATE "C" PRIMARY KEY,
    -- Counts the claims: every change names that of who makes it.
    epoch    bigint  NOT NULL,
    created  bigint  NOT NULL DEFAULT 0,
    active   bigint,
    building bigint,
    -- Whether it changes in the appends' own transactions.
    inline   boolean NOT NULL DEFAULT false
);

-- The fillings of the models, each in a table of its own: `factum_reads.MODEL_gGENERATION`. A checkpoint is `log_id`, `log_epoch`
-- and `position`, all of them or none.
CREATE TABLE factum.generations (
    model      text COLLATE "C" NOT NULL REFERENCES factum.models,
    generation bigint  NOT NULL,
    version    bigint  NOT NULL,
    log_id     uuid,
    log_epoch  bigint,
    position   bigint,
    -- Whether its table is to go as soon as nobody reads it any more.
    dropped    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (model, generation)
);

-- What is known of events that could not be handled, by their positions: they change with their generation's checkpoint, and go with
-- it.
CREATE TABLE factum.letters (
    model      text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    position   bigint NOT NULL,
    -- JSON as it was put.
    letter     text   NOT NULL,
    PRIMARY KEY (model, generation, position)
);

-- Names that one worker has for a while, by this server's clock: who keeps which model. Nothing relies on them; what is relied on is
-- the epoch of a model.
CREATE TABLE factum.holds (
    name   text COLLATE "C" PRIMARY KEY,
    holder text COLLATE "C" NOT NULL,
    until  timestamptz NOT NULL,
    -- For how long it was taken or kept the last time.
    ttl    interval NOT NULL
);

-- Snapshots of aggregates, by stream and form. Bytes, since a text of PostgreSQL cannot hold every text.
CREATE TABLE factum.snapshots (
    stream   text COLLATE "C" NOT NULL,
    form     text COLLATE "C" NOT NULL,
    put_at   bigint NOT NULL,
    snapshot bytea  NOT NULL,
    PRIMARY KEY (stream, form)
);
CREATE SEQUENCE factum.snapshots_put AS bigint;

-- Locks rows of models that change in this transaction, by the places to which their keys lead, in one order for all. Who draws a
-- position after that has a greater one than all who held them before: rows take in their events in the order of positions.
CREATE FUNCTION factum.lock_rows(places integer[]) RETURNS void VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    rows  CONSTANT integer := 'factum.models'::regclass::oid::integer;
    place integer;
BEGIN
    FOR place IN SELECT DISTINCT unnest(places) AS wanted ORDER BY wanted LOOP
        PERFORM pg_advisory_xact_lock(rows, place);
    END LOOP;
END $$;

-- Keeps every append off until the end of the transaction (256 is the place that each of them takes shared), or gives up.
CREATE FUNCTION factum.keep_appends_off(patience text) RETURNS void VOLATILE LANGUAGE plpgsql AS $$
DECLARE
    was_drawn bigint;
    until timestamptz := clock_timestamp() + patience::interval;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the transaction must be READ COMMITTED: it has to see what its locks have waited for';
    END IF;
    PERFORM set_config('lock_timeout', patience, true);
    -- Who holds this and hangs holds up everybody.
    PERFORM set_config('idle_in_transaction_session_timeout', '60s', true);
    PERFORM factum.meet('{}', '{256}');
    -- A transaction that ends gives back one lock after the other: its announcement may be the last.
    SELECT last_value INTO was_drawn FROM factum.position;
    WHILE (SELECT s.settled < was_drawn FROM factum.settle(was_drawn) s) LOOP
        IF clock_timestamp() > until THEN
            RAISE EXCEPTION 'an append does not come to its end' USING ERRCODE = 'lock_not_available';
        END IF;
    END LOOP;
    PERFORM set_config('lock_timeout', '0', true);
END $$;

-- Ends that a model changes in the appends' own transactions: whoever keeps it in the background goes on after the last event
-- that is in it. Whether it was so. For operators: SELECT factum.make_asynchronous('balances');
CREATE FUNCTION factum.make_asynchronous(of_model text) RETURNS boolean VOLATILE LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM factum.models m WHERE m.model = of_model AND m.inline;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM factum.keep_appends_off('10s');
    UPDATE factum.generations g
        SET log_id = l.log_id, log_epoch = l.epoch,
            position = (SELECT coalesce(max(e.position), 0) FROM factum.events e)
        FROM factum.log l, factum.models m
        WHERE m.model = of_model AND m.inline AND g.model = m.model AND g.generation = m.active;
    UPDATE factum.models SET inline = false, epoch = epoch + 1 WHERE model = of_model AND inline;
    RETURN FOUND;
END $$;
