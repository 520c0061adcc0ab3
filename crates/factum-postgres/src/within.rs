//! The door to transactions of the caller's own: the one place where types of the driver's are to be seen.

use async_trait::async_trait;
use factum::{Append, Appended, Error, Outcome, Result};
use tokio_postgres::{Client, Statement, Transaction};

use crate::{
    Inner, PostgresStore,
    append::{self, Line},
    fault::Fault,
    settle::{self, Unsettled},
};

/// A connection that is not of our pool.
struct OfTheCaller<'c>(&'c Client);

#[async_trait]
impl Line for OfTheCaller<'_> {
    fn client(&self) -> &Client {
        self.0
    }

    async fn prepare(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.0.prepare(sql).await
    }
}

impl PostgresStore {
    /// Appends in a transaction of the caller's own, on the store's database: what else it writes and these events happen
    /// together, or not at all.
    ///
    /// ```no_run
    /// # async fn example(store: &factum_postgres::PostgresStore, client: &mut tokio_postgres::Client, append: factum::Append)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let transaction = client.transaction().await?;
    /// transaction.execute("UPDATE seats SET taken = true WHERE number = 12", &[]).await?;
    /// let appended = store.append_within(&transaction, append).await?;
    /// transaction.commit().await?;
    /// store.committed(&appended).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The events are there when the caller has committed, and not before; [`committed`](Self::committed) then waits until every
    /// reader sees them, as the answer of every other append does. Until the transaction ends, it holds what it has locked: its streams, and
    /// what readers see of events that were appended after it. So append last, and commit at once. Nothing is tried again
    /// here, and where it fails the caller rolls back.
    ///
    /// # Errors
    /// As for [`append`](factum::EventStore::append), and [`Error::InvalidInput`] if the transaction is not `READ COMMITTED` (it
    /// could not see what its locks have waited for) or is of another database.
    pub async fn append_within(&self, transaction: &Transaction<'_>, mut append: Append) -> Result<Appended> {
        let (client, place) = (OfTheCaller(transaction.client()), &self.inner.place);
        self.inner.limits.check(&append)?;
        self.check_transaction(&client).await.map_err(|fault| fault.explain(place))?;
        let write = async |append: &Append| {
            let Inner { append: statements, folds, limits, durability, .. } = &*self.inner;
            let written = append::append_within(&client, statements, folds, limits, *durability, append);
            written.await.map_err(|fault| fault.explain(place))
        };
        self.bring_into_this_epoch(&mut append).await?;
        match write(&append).await {
            Err(Error::LogRewound(_)) => {
                self.bring_again(&mut append).await?;
                write(&append).await
            }
            done => done,
        }
    }

    /// Waits until every reader sees events that were appended [within](Self::append_within) a transaction which the caller
    /// has committed since, and tells those who wait for them.
    ///
    /// # Errors
    /// Failures of the database: the events are there all the same, and every reader will see them. [`Error::Unavailable`] also if
    /// the log has begun a new epoch: after a failover they may be lost.
    pub async fn committed(&self, appended: &Appended) -> Result<()> {
        let last = appended.token.position;
        settle::settled(&self.inner, appended.token).await.map_err(|unsettled| match unsettled {
            Unsettled::Failed(error) => error,
            Unsettled::AnotherEpoch => {
                let why = format!("the log in PostgreSQL {} has begun a new epoch since, and may have lost the events up to {last}", self.inner.place);
                Error::Unavailable { why, outcome: Outcome::Unknown }
            }
        })?;
        self.inner.news.write(last);
        Ok(())
    }

    async fn check_transaction(&self, line: &OfTheCaller<'_>) -> Result<(), Fault> {
        let schema = &self.inner.schema;
        let look = "SELECT current_setting('transaction_isolation'), to_regclass($1) IS NOT NULL,
            set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                THEN 'on' ELSE current_setting('synchronous_commit') END, true),
            set_config('idle_in_transaction_session_timeout', CASE
                WHEN current_setting('idle_in_transaction_session_timeout')::interval BETWEEN '1ms' AND $2::text::interval
                THEN current_setting('idle_in_transaction_session_timeout') ELSE $2::text END, true)";
        // One that hangs ends, and does not hold up others for ever.
        let timeout = format!("{}ms", self.inner.statement_timeout.as_millis());
        let log = format!("\"{schema}\".log");
        let row = line.0.query_one(look, &[&log, &timeout]).await?;
        let (isolation, there): (&str, bool) = (row.try_get(0)?, row.try_get(1)?);
        if isolation != "read committed" {
            let why = format!("its isolation is {isolation}; begin it as READ COMMITTED");
            return Err(Error::invalid("the transaction to append in", why).into());
        }
        let mut ours = false;
        if there {
            let log = format!("SELECT log_id, \"{schema}\".is_where_it_was() FROM \"{schema}\".log");
            let row = line.0.query_one(&log, &[]).await?;
            ours = row.try_get::<_, uuid::Uuid>(0)? == self.inner.log_id;
            if ours && !row.try_get::<_, bool>(1)? {
                // Whoever takes a connection of the store's own begins a new epoch; a transaction that may be rolled back cannot.
                let why = "the database was failed over or restored, and nobody has opened the store there since; ask it for its `head`, and begin again".to_owned();
                return Err(Error::Unavailable { why, outcome: Outcome::No }.into());
            }
        }
        if ours {
            return Ok(());
        }
        let why = format!("it is on another database than the store, which is {}", self.inner.place);
        Err(Error::invalid("the transaction to append in", why).into())
    }
}
