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

-- Snapshots of aggregates, by stream and form. Bytes, since a text of PostgreSQL cannot hold every text.
CREATE TABLE factum.snapshots (
    stream   text COLLATE "C" NOT NULL,
    form     text COLLATE "C" NOT NULL,
    put_at   bigint NOT NULL,
    snapshot bytea  NOT NULL,
    PRIMARY KEY (stream, form)
);
CREATE SEQUENCE factum.snapshots_put AS bigint;
