//! factum, as its users run it: the revision that they have read is expected.

use async_trait::async_trait;
use factum::{Append, EventStore, ExpectedRevision, NewEvent, Revision, StreamName};
use factum_postgres::{Options, PostgresStore, Writing};

use crate::{
    bare::connect,
    subject::{Failure, Subject, payload},
};

/// One process after another takes a writer; each has a store of its own.
pub struct Factum {
    name: &'static str,
    processes: Vec<PostgresStore>,
}

impl Factum {
    pub async fn new(url: &str, writers: usize, writing: Writing, processes: usize) -> Result<Self, Failure> {
        let (name, schema, connections) = match (writing, processes) {
            (Writing::Single, _) => ("factum, single", "bench_single", writers),
            (Writing::Grouped, 1) => ("factum", "bench_grouped", 8),
            (Writing::Grouped, _) => ("factum, 4 processes", "bench_processes", 8),
        };
        connect(url).await?.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await?;
        let mut stores = Vec::new();
        for _ in 0..processes {
            let options = Options { schema: schema.to_owned(), connections, writing, ..Options::default() };
            stores.push(PostgresStore::open(url, options).await?);
        }
        Ok(Self { name, processes: stores })
    }
}

#[async_trait]
impl Subject for Factum {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn append(&self, writer: usize, stream: &str, revision: u64, _: i64) -> Result<i64, Failure> {
        let name = StreamName::new(stream)?;
        let event = NewEvent::json("Deposited", &payload(stream, revision))?;
        let expected = match revision {
            0 => ExpectedRevision::NoStream,
            next => ExpectedRevision::Exact(Revision(next - 1)),
        };
        let append = Append::to(name.clone(), [event]).expect(name, expected);
        let appended = self.processes[writer % self.processes.len()].append(append).await?;
        Ok(appended.token.position.0 as i64)
    }
}
