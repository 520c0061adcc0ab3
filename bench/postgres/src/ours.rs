//! factum, as its users run it: the revision that they have read is expected.

use async_trait::async_trait;
use factum::{Append, EventStore, ExpectedRevision, NewEvent, Revision, StreamName};
use factum_postgres::{Options, PostgresStore, Writing};

use crate::{
    bare::connect,
    subject::{Failure, Subject, payload},
};

pub struct Factum {
    writing: Writing,
    store: PostgresStore,
}

impl Factum {
    pub async fn new(url: &str, writers: usize, writing: Writing) -> Result<Self, Failure> {
        let (schema, connections) = match writing {
            Writing::Single => ("bench_single", writers),
            Writing::Grouped => ("bench_grouped", 8),
        };
        connect(url).await?.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await?;
        let options = Options { schema: schema.to_owned(), connections, writing, ..Options::default() };
        Ok(Self { writing, store: PostgresStore::open(url, options).await? })
    }
}

#[async_trait]
impl Subject for Factum {
    fn name(&self) -> &'static str {
        match self.writing {
            Writing::Single => "factum, single",
            Writing::Grouped => "factum, grouped",
        }
    }

    async fn append(&self, _: usize, stream: &str, revision: u64, _: i64) -> Result<i64, Failure> {
        let name = StreamName::new(stream)?;
        let event = NewEvent::json("Deposited", &payload(stream, revision))?;
        let expected = match revision {
            0 => ExpectedRevision::NoStream,
            next => ExpectedRevision::Exact(Revision(next - 1)),
        };
        let append = Append::to(name.clone(), [event]).expect(name, expected);
        let appended = self.store.append(append).await?;
        Ok(appended.token.position.0 as i64)
    }
}
