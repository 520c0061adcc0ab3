//! What PostgreSQL does by itself: the same columns and indexes as factum's, and no thought of order.

use async_trait::async_trait;
use factum_postgres::{Options, PostgresStore};
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

use crate::subject::{Failure, Subject, payload};

/// Whether an insert waits for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    None,
    Global,
}

/// Writers with a connection each.
pub struct Inserts {
    lock: Lock,
    writers: Vec<(Client, Statement)>,
}

pub async fn connect(url: &str) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Inserts {
    pub async fn new(url: &str, writers: usize, lock: Lock) -> Result<Self, Failure> {
        let schema = if lock == Lock::None { "bench_bare" } else { "bench_locked" };
        let hand = connect(url).await?;
        hand.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await?;
        // The table is factum's own, with all of its indexes.
        PostgresStore::open(url, Options { schema: schema.to_owned(), ..Options::default() }).await?;
        hand.batch_execute(&format!(
            "ALTER TABLE {schema}.events ALTER COLUMN position SET DEFAULT nextval('{schema}.position')"
        ))
        .await?;
        let insert = format!(
            "INSERT INTO {schema}.events (stream, revision, recorded_at, id, event_type, category, content_type, data, tags, digest)
             VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $3, 'Deposited', 'account',
                     'application/json', $4::text::jsonb, '{{}}', '\\x00112233445566778899aabbccddeeff')
             RETURNING position"
        );
        let mut all = Vec::new();
        for _ in 0..writers {
            let client = connect(url).await?;
            let insert = client.prepare(&insert).await?;
            all.push((client, insert));
        }
        Ok(Self { lock, writers: all })
    }
}

#[async_trait]
impl Subject for Inserts {
    fn name(&self) -> &'static str {
        match self.lock {
            Lock::None => "bare inserts",
            Lock::Global => "global lock",
        }
    }

    async fn append(&self, writer: usize, stream: &str, revision: u64, _: i64) -> Result<i64, Failure> {
        let (client, insert) = &self.writers[writer];
        let (revision, id, data) = (revision as i64, Uuid::now_v7(), payload(stream, revision).to_string());
        if self.lock == Lock::None {
            return Ok(client.query_one(insert, &[&stream, &revision, &id, &data]).await?.get(0));
        }
        // All in one trip.
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&stream, &revision, &id, &data];
        let (locked, row, committed) = tokio::join!(
            biased;
            client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(4711)"),
            client.query_one(insert, &parameters),
            client.batch_execute("COMMIT"),
        );
        (locked?, committed?);
        Ok(row?.get(0))
    }
}
