//! The published crates, as their users append with them.

use async_trait::async_trait;
use cqrs_es::{
    Aggregate, DomainEvent,
    event_sink::EventSink,
    persist::{PersistedEventRepository, SerializedEvent},
};
use disintegrate::{Event, EventStore as _, query};
use disintegrate_postgres::{Migrator, PgEventStore};
use disintegrate_serde::serde::json::Json;
use postgres_es::PostgresEventRepository;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    bare::connect,
    subject::{Failure, Subject, payload},
};

async fn pool(url: &str, schema: &str, connections: usize) -> Result<PgPool, Failure> {
    let hand = connect(url).await?;
    hand.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")).await?;
    let options = url.parse::<sqlx::postgres::PgConnectOptions>()?.options([("search_path", schema)]);
    let connections = u32::try_from(connections)?;
    Ok(PgPoolOptions::new().max_connections(connections).connect_with(options).await?)
}

/// The event repository under its framework.
pub struct PostgresEs {
    repository: PostgresEventRepository,
}

impl PostgresEs {
    pub async fn new(url: &str, writers: usize) -> Result<Self, Failure> {
        let pool = pool(url, "bench_postgres_es", writers).await?;
        // The table of its documentation.
        sqlx::query(
            "CREATE TABLE events (
                aggregate_type text NOT NULL, aggregate_id text NOT NULL,
                sequence bigint CHECK (sequence >= 0) NOT NULL,
                event_type text NOT NULL, event_version text NOT NULL, payload json NOT NULL, metadata json NOT NULL,
                PRIMARY KEY (aggregate_type, aggregate_id, sequence))",
        )
        .execute(&pool)
        .await?;
        Ok(Self { repository: PostgresEventRepository::new(pool) })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct AnyEvent;

impl DomainEvent for AnyEvent {
    fn event_type(&self) -> String {
        "Deposited".to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Account;

impl Aggregate for Account {
    const TYPE: &'static str = "account";
    type Command = ();
    type Event = AnyEvent;
    type Error = std::io::Error;
    type Services = ();

    async fn handle(&mut self, (): (), (): &(), _: &EventSink<Self>) -> Result<(), Self::Error> {
        Ok(())
    }

    fn apply(&mut self, _: AnyEvent) {}
}

#[async_trait]
impl Subject for PostgresEs {
    fn name(&self) -> &'static str {
        "postgres-es 0.5.0"
    }

    async fn append(&self, _: usize, stream: &str, revision: u64, _: i64) -> Result<i64, Failure> {
        let event = SerializedEvent::new(
            stream.to_owned(),
            usize::try_from(revision + 1)?,
            "account".to_owned(),
            "Deposited".to_owned(),
            "1".to_owned(),
            payload(stream, revision),
            serde_json::json!({}),
        );
        self.repository.persist::<Account>(&[event], None).await?;
        Ok(0)
    }
}

/// Its event store, with the check that nothing came to the account since.
pub struct Disintegrate {
    store: PgEventStore<AccountEvent, Json<AccountEvent>>,
}

const REST: &str = "
    CREATE FUNCTION event_store_begin_epoch() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        drawn bigint;
        database integer;
    BEGIN
        SELECT last_value INTO drawn FROM seq_event_event_id;
        SELECT oid INTO database FROM pg_database WHERE datname = current_database();
        PERFORM pg_try_advisory_xact_lock_shared(database, 0);
        PERFORM pg_try_advisory_xact_lock_shared(1, (drawn & 4294967295)::bit(32)::integer);
        PERFORM pg_try_advisory_xact_lock_shared(2, (drawn >> 32)::bit(32)::integer);
    END $$;
    ALTER TABLE event ADD COLUMN account text;
    CREATE INDEX idx_event_account ON event (account) WHERE account IS NOT NULL";

#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize)]
enum AccountEvent {
    Deposited {
        #[id]
        account: String,
        cents: u64,
        currency: String,
        reference: String,
        by: String,
    },
}

impl Disintegrate {
    pub async fn new(url: &str, writers: usize) -> Result<Self, Failure> {
        let pool = pool(url, "bench_disintegrate", writers).await?;
        let store = PgEventStore::new_uninitialized(pool.clone(), Json::default());
        if let Err(why) = Migrator::new(store.clone()).init_event_store().await {
            // A number in one of its functions is written as only PostgreSQL 16 and later read it.
            eprintln!(
                "disintegrate does not begin on this server ({why}); the rest of its schema is made by hand"
            );
            sqlx::raw_sql(REST).execute(&pool).await?;
        }
        Ok(Self { store })
    }
}

#[async_trait]
impl Subject for Disintegrate {
    fn name(&self) -> &'static str {
        "disintegrate 4.0.1"
    }

    async fn append(&self, _: usize, stream: &str, revision: u64, after: i64) -> Result<i64, Failure> {
        let of_account = query!(AccountEvent; account == stream.to_owned());
        let event = AccountEvent::Deposited {
            account: stream.to_owned(),
            cents: 1_000 + revision,
            currency: "EUR".to_owned(),
            reference: "invoice 2026-11 of the printing office, second reminder".to_owned(),
            by: "clerk-17".to_owned(),
        };
        loop {
            // Transactions that have nothing to do with each other can fail each other here; its users try again.
            match self.store.append(vec![event.clone()], of_account.clone(), after).await {
                Ok(appended) => return Ok(appended.last().map_or(0, |event| event.id())),
                Err(error) if is_clash(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_clash(error: &disintegrate_postgres::Error) -> bool {
    match error {
        disintegrate_postgres::Error::Concurrency => true,
        disintegrate_postgres::Error::Database(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| code.starts_with("40"))
        }
        _ => false,
    }
}
