//! Appends: some of them in one transaction, which says where it will write before it draws a position.
//!
//! What can be asked at once is sent at once: a transaction without surprises is two trips to the server, however many appends
//! are in it.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use deadpool_postgres::Object;
use factum::{
    Append, Appended, Durability, EventId, Limits, LogIdentity, Placed, Position, Query, Result, Revision,
    StreamName, Timestamp, Token,
    admission::{Admission, admit},
    error::Error,
};
use futures_util::future::try_join_all;
use tokio_postgres::{Client, Row, Statement, types::ToSql};

use crate::{
    fault::Fault,
    inline::{Folds, Plan, REGISTERED, Registered},
    known::{self, Attempts, Content, Key, Known, concerned, queries},
    models::{self, Columns, Names},
    rows::{self, EventColumns, STREAM, StreamColumns, number, signed},
    schema::in_schema,
    sql::{self, Sql},
};

const BEGIN_A_GROUP: &str = "BEGIN; SET LOCAL lock_timeout = '200ms'";

/// How appends of one schema ask.
#[derive(Debug)]
pub(crate) struct Statements {
    meet: String,
    lock_streams: String,
    find: String,
    log: String,
    record: String,
    allocate: String,
    settle: String,
    epoch: String,
    /// `append_plain`.
    pub(crate) plain: String,
    lock_rows: String,
    schema: String,
}

impl Statements {
    pub(crate) fn new(schema: &str) -> Self {
        let sql = |text: &str| in_schema(text, schema);
        Self {
            meet: sql("SELECT factum.meet($1, $2)"),
            lock_streams: sql(&format!("SELECT {STREAM} FROM factum.lock_streams($1) s")),
            find: sql("SELECT e.stream, e.id, e.position, e.revision, e.digest, e.xmin::text::bigint
                FROM unnest($1::text[], $2::uuid[]) AS w (stream, id) JOIN factum.events e ON e.stream = w.stream AND e.id = w.id"),
            log: sql(&format!(
                "SELECT log_id, epoch, (SELECT coalesce(max(position), 0) FROM factum.events),
                pg_current_xact_id()::text::bigint & 4294967295, {REGISTERED} FROM factum.log l
                WHERE l.tableoid = l.log_oid AND l.xmin = l.written_by"
            )),
            record: sql("SELECT first, moment FROM factum.record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                $15, $16, $17, $18, $19, $20, $21, $22)"),
            allocate: sql("SELECT first, moment FROM factum.allocate($1)"),
            settle: sql("SELECT settled, drawn FROM factum.settle($1)"),
            epoch: sql("SELECT epoch FROM factum.log"),
            plain: sql("SELECT first, first_revision, epoch FROM factum.append_plain($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
                $12, $13)"),
            lock_rows: sql("SELECT factum.lock_rows($1)"),
            schema: schema.to_owned(),
        }
    }
}

/// A connection, and how statements are prepared on it.
#[async_trait]
pub(crate) trait Line: Sync {
    fn client(&self) -> &Client;

    async fn prepare(&self, sql: &str) -> Result<Statement, tokio_postgres::Error>;
}

#[async_trait]
impl Line for Object {
    fn client(&self) -> &Client {
        self
    }

    async fn prepare(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.prepare_cached(sql).await
    }
}

/// What becomes of an append in a transaction of several.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It has its answer.
    Answered(Result<Appended>),
    /// What it rests on may have been changed by those before it: it is to be decided in a later transaction. Never the first.
    Later,
}

/// Appends that are decided, and written as far as they are to be: to be answered when nothing can appear before `rests_on` any
/// more, neither before these events nor before those that a refusal speaks of. Only then does every reader see them.
pub(crate) struct Done {
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) rests_on: Token,
    /// How far every reader sees, if somebody has looked since.
    pub(crate) settled: Option<Settled>,
}

/// Does them, in this order, in a transaction of their own; each is done or refused for itself.
///
/// `attempts` at the same were made before, and it may be unknown what became of them; this one is added.
/// What one of them has written is no replay: nobody has been told of it.
///
/// # Errors
/// What fails all of them.
pub(crate) async fn append(
    client: &Object,
    statements: &Statements,
    folds: &Folds,
    limits: &Limits,
    durability: Durability,
    appends: &[&Append],
    attempts: &mut Attempts,
) -> Result<Done, Fault> {
    let work = Work { line: client, whose: Whose::Ours, statements, folds };
    let known = match work.ask(appends).await {
        Ok(known) => known,
        Err(fault) => return Err(undone(client, fault).await),
    };
    let transaction = known.transaction;
    let decided = Decided::of(appends, limits, known, attempts);
    attempts.transactions.push(transaction);
    match work.write(&decided).await {
        Ok((first, settled)) => Ok(Done { settled, ..decided.done(first, durability) }),
        Err(fault) => Err(undone(client, fault).await),
    }
}

/// Ends the transaction; a connection that is gone has ended it.
async fn undone(client: &Object, fault: Fault) -> Fault {
    let _ = tokio::join!(biased; client.batch_execute("ROLLBACK"), give_back(client));
    fault
}

/// Gives back the lock of the session's own: who is interrupted while they give it back may have kept it.
pub(crate) async fn give_back(client: &Object) {
    let _ = client.batch_execute("SELECT pg_advisory_unlock_all()").await;
}

/// Does one in a transaction that somebody else has begun and will end.
///
/// # Errors
/// Why not; what it has locked stays so until the transaction ends.
pub(crate) async fn append_within(
    line: &impl Line,
    statements: &Statements,
    folds: &Folds,
    limits: &Limits,
    durability: Durability,
    append: &Append,
) -> Result<Appended, Fault> {
    let work = Work { line, whose: Whose::TheCallers, statements, folds };
    let known = work.ask(&[append]).await?;
    let decided = Decided::of(&[append], limits, known, &Attempts::default());
    let (first, _) = work.write(&decided).await?;
    match decided.done(first, durability).verdicts.pop() {
        Some(Verdict::Answered(answer)) => Ok(answer?),
        _ => Err(Error::invalid("the append", "it was not decided").into()),
    }
}

/// How far every reader sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    pub(crate) to: Position,
    /// What had been drawn before that.
    pub(crate) drawn: Position,
    /// The epoch after that.
    pub(crate) epoch: u64,
}

impl Settled {
    /// Whether every reader sees so far.
    pub(crate) fn shows(&self, to: &Token) -> bool {
        to.log.epoch == self.epoch && to.position <= self.to
    }
}

/// Waits for a while until every reader sees everything up to a position that was drawn; how far they see then. For the start of
/// the log it waits for nobody.
pub(crate) async fn settle(client: &Object, statements: &Statements, to: Position) -> Result<Settled, Fault> {
    settled(client, statements, to).await.map_err(|error| Fault::from(error).not_settled())
}

/// The same, as the database answers.
pub(crate) async fn settled(
    line: &impl Line,
    statements: &Statements,
    to: Position,
) -> Result<Settled, tokio_postgres::Error> {
    let (settle, epoch) =
        tokio::try_join!(line.prepare(&statements.settle), line.prepare(&statements.epoch))?;
    let (client, to) = (line.client(), [signed(to.0)]);
    let to: [&(dyn ToSql + Sync); 1] = [&to[0]];
    let (row, epoch) = tokio::join!(biased; client.query_one(&settle, &to), client.query_one(&epoch, &[]));
    let (row, epoch) = (row?, epoch?);
    let position = |at| Ok::<_, tokio_postgres::Error>(Position(number(row.try_get(at)?)));
    Ok(Settled { to: position(0)?, drawn: position(1)?, epoch: number(epoch.try_get(0)?) })
}

/// Who begins the transaction, and ends it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    TheCallers,
}

/// One transaction.
struct Work<'w, L> {
    line: &'w L,
    whose: Whose,
    statements: &'w Statements,
    /// The inline read models that can be kept.
    folds: &'w Folds,
}

/// Some appends, decided in their order.
struct Decided<'a> {
    known: Known,
    decisions: Vec<Decision>,
    /// Those that are written.
    written: Vec<&'a Append>,
    events: EventColumns,
}

/// Whether events that were found were written by an attempt of which nobody was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByUs {
    Yes,
    No,
}

enum Decision {
    /// Written: each event's number in the transaction, and its revision.
    Written(Vec<Placed>),
    /// Written before: by an earlier attempt at the same, or not.
    Found(Vec<Placed>, ByUs),
    Refused(Error),
    Later,
}

impl<'a> Decided<'a> {
    fn of(appends: &[&'a Append], limits: &Limits, known: Known, attempts: &Attempts) -> Self {
        let mut decided =
            Self { known, decisions: Vec::new(), written: Vec::new(), events: EventColumns::default() };
        let mut closed = false;
        for &append in appends {
            let decision = if closed { Decision::Later } else { decided.decide(append, limits, attempts) };
            // What changes the lives of streams is alone with them, since only the server knows its moment.
            closed |= known::describes(append);
            if matches!(decision, Decision::Written(_)) {
                decided.written.push(append);
            }
            decided.decisions.push(decision);
        }
        decided
    }

    fn decide(&mut self, append: &Append, limits: &Limits, attempts: &Attempts) -> Decision {
        let alone = self.written.is_empty();
        if !alone && (known::describes(append) || known::is_met_by(append, &self.written)) {
            return Decision::Later;
        }
        match admit(append, limits, &self.known, Timestamp(0)) {
            Ok(Admission::New) => Decision::Written(self.known.join(append, &mut self.events)),
            // It may rest on an append before it, which may yet fail.
            _ if !alone => Decision::Later,
            Ok(Admission::Replayed(events)) => {
                let ours = self.known.found(append).all(|content| attempts.made(content));
                Decision::Found(events, if ours { ByUs::Yes } else { ByUs::No })
            }
            Err(error) => Decision::Refused(error),
        }
    }

    /// What becomes of the inline read models.
    fn plan(&self, folds: &Folds, schema: &str) -> Result<Plan<'a>> {
        if self.known.inline.is_empty() {
            return Ok(Plan::default());
        }
        let placed = self.decisions.iter().filter_map(|decision| match decision {
            Decision::Written(events) => Some(events),
            _ => None,
        });
        let events = self.written.iter().zip(placed).flat_map(|(append, placed)| {
            append.events().zip(placed).map(|((stream, event), placed)| (stream, event, *placed))
        });
        Plan::of(folds, &Names::Schema(schema.to_owned()), &self.known.inline, events.collect())
    }

    /// Up to where readers must see before anything is answered.
    fn rests_on(&self, first: Option<Position>) -> Position {
        if let Some(first) = first {
            return Position(first.0 + self.events.len() as u64 - 1);
        }
        let replayed = self.decisions.iter().filter_map(|decision| match decision {
            Decision::Found(events, _) => events.iter().map(|placed| placed.position).max(),
            _ => None,
        });
        replayed.max().unwrap_or_default().max(self.known.head)
    }

    /// The answers, once all is written from `first` on.
    fn done(self, first: Option<Position>, durability: Durability) -> Done {
        let rests_on = self.rests_on(first);
        let (identity, head) = (self.known.identity, self.known.head);
        let done = |events: Vec<Placed>, replayed| {
            let last = events.iter().map(|placed| placed.position).max().unwrap_or(head);
            Verdict::Answered(Ok(Appended { events, token: identity.at(last), replayed, durability }))
        };
        let first = first.unwrap_or_default();
        let at = |placed: Placed| Placed { position: Position(first.0 + placed.position.0), ..placed };
        let verdict = |decision| match decision {
            Decision::Written(events) => done(events.into_iter().map(at).collect(), false),
            Decision::Found(events, by_us) => done(events, by_us == ByUs::No),
            Decision::Refused(error) => Verdict::Answered(Err(error)),
            Decision::Later => Verdict::Later,
        };
        let verdicts = self.decisions.into_iter().map(verdict).collect();
        Done { verdicts, rests_on: identity.at(rests_on), settled: None }
    }
}

impl<L: Line> Work<'_, L> {
    /// Takes all locks, in the order that everybody takes them, and then asks what is known.
    async fn ask(&self, appends: &[&Append]) -> Result<Known, Fault> {
        let Self { line, statements, .. } = self;
        let wanted = Wanted::of(appends)?;
        let (meet, lock, find, log) = tokio::try_join!(
            line.prepare(&statements.meet),
            line.prepare(&statements.lock_streams),
            line.prepare(&statements.find),
            line.prepare(&statements.log),
        )?;
        let mut looks: Vec<(Statement, Sql)> = Vec::new();
        for (query, after) in &wanted.queries {
            let look = look_for(&statements.schema, query, *after);
            looks.push((line.prepare(&look.text).await?, look));
        }
        let client = line.client();
        let begin = async {
            match self.whose {
                Whose::TheCallers => Ok(()),
                // Nobody waits long because of somebody in the same group.
                Whose::Ours if appends.len() > 1 => client.batch_execute(BEGIN_A_GROUP).await,
                Whose::Ours => client.batch_execute("BEGIN").await,
            }
        };
        let places: [&(dyn ToSql + Sync); 2] = [&wanted.shared, &wanted.alone];
        let names: [&(dyn ToSql + Sync); 1] = [&wanted.names];
        let ids: [&(dyn ToSql + Sync); 2] = [&wanted.streams, &wanted.ids];
        // All is sent in this order without waiting between, and done in this order, each with a view of its own: what comes
        // after the locks sees what they waited for.
        let (begun, met, streams, recorded, log, found) = tokio::join!(
            biased;
            begin,
            client.query(&meet, &places),
            client.query(&lock, &names),
            client.query(&find, &ids),
            client.query_one(&log, &[]),
            try_join_all(looks.iter().map(|(statement, look)| async move {
                client.query_one(statement, &look.parameters()).await
            })),
        );
        // The first that fails fails the others: it is the one to tell of.
        begun?;
        met?;
        let streams = streams?.iter().map(rows::stream).collect::<Result<_, Fault>>()?;
        let recorded = recorded?.iter().map(recorded_event).collect::<Result<_, Fault>>()?;
        let (log, found) = (log?, found?);
        let identity = LogIdentity { log_id: log.try_get(0)?, epoch: number(log.try_get(1)?) };
        let (head, transaction) = (Position(number(log.try_get(2)?)), log.try_get(3)?);
        let mut matches = Vec::with_capacity(found.len());
        for ((query, after), row) in wanted.queries.into_iter().zip(found) {
            let position = row.try_get::<_, Option<i64>>(0)?.map(|position| Position(number(position)));
            matches.push((query.clone(), after, position));
        }
        let inline = Registered::of(&log.try_get::<_, Vec<&str>>(4)?)?;
        Ok(Known { identity, head, transaction, streams, recorded, matches, inline })
    }

    /// Writes what was admitted, and commits where the transaction is ours. The position of the first event, if there is one; and
    /// how far every reader sees after that, where it was committed.
    async fn write(&self, decided: &Decided<'_>) -> Result<(Option<Position>, Option<Settled>), Fault> {
        let Self { line, .. } = self;
        let client = line.client();
        if decided.events.len() == 0 {
            if self.whose == Whose::Ours {
                // What was locked may have been noted for the first time: that is not worth keeping.
                client.batch_execute("ROLLBACK").await?;
            }
            return Ok((None, None));
        }
        let record = self.line.prepare(&self.statements.record).await?;
        let plan = decided.plan(self.folds, &self.statements.schema)?;
        let (drawn_before, rows) = self.draw_before(decided, &plan).await?;
        let (first, moment) = drawn_before.unwrap_or_default();
        let (first, moment) = (Position(number(first)), Timestamp(moment));
        let after = decided.known.streams_after(&decided.written, moment)?;
        let state = |stream: &StreamName| after.get(stream).copied().unwrap_or_default();
        let changes = plan.fold(first, moment, rows, state)?;
        let changes = self.prepare_rows(&plan, &changes).await?;
        let streams = StreamColumns::of(&after);
        let (first, moment) = drawn_before.unzip();
        let parameters = parameters(&first, &moment, &decided.events, &streams);
        let (recorded, changed, committed, settled) = tokio::join!(
            biased;
            client.query_one(&record, &parameters),
            try_join_all(changes.iter().map(|(write, rows)| client.query(write, rows))),
            async {
                match self.whose {
                    Whose::Ours => client.batch_execute("COMMIT").await,
                    Whose::TheCallers => Ok(()),
                }
            },
            // In the same trip: mostly nobody is before these any more. It waits for none, and need not succeed.
            async {
                match self.whose {
                    Whose::Ours => settled(*line, self.statements, Position::START).await.ok(),
                    Whose::TheCallers => None,
                }
            },
        );
        let recorded = recorded.map_err(|error| Fault::from(error).of_a_change())?;
        changed.map_err(|error| Fault::from(error).of_a_change())?;
        committed.map_err(|error| Fault::from(error).of_a_change())?;
        Ok((Some(Position(number(recorded.try_get(0)?))), settled))
    }

    /// The statements that write rows, with their parameters.
    async fn prepare_rows<'c>(
        &self,
        plan: &Plan<'_>,
        changes: &'c [Columns],
    ) -> Result<Vec<(Statement, [&'c (dyn ToSql + Sync); 4])>, Fault> {
        let mut prepared = Vec::with_capacity(changes.len());
        for (model, rows) in plan.models().iter().zip(changes) {
            let write = format!("WITH {} SELECT", models::write_rows(&model.table, "true"));
            prepared.push((self.line.prepare(&write).await?, rows.parameters()));
        }
        Ok(prepared)
    }

    /// The first position and the moment, where they must be known before anything is written: where an append changes what a
    /// stream shows, and where rows change, which are locked **before** that. The rows, as they are then, by model and key.
    async fn draw_before(
        &self,
        decided: &Decided<'_>,
        plan: &Plan<'_>,
    ) -> Result<(Option<(i64, i64)>, Vec<HashMap<String, String>>), Fault> {
        let describes = decided.written.iter().any(|append| known::describes(append));
        if !describes && plan.models().is_empty() {
            return Ok((None, Vec::new()));
        }
        let Self { line, statements, .. } = self;
        let (lock, allocate) =
            tokio::try_join!(line.prepare(&statements.lock_rows), line.prepare(&statements.allocate))?;
        let mut selects = Vec::with_capacity(plan.models().len());
        for model in plan.models() {
            selects.push((line.prepare(&models::select_rows(&model.table)).await?, &model.keys));
        }
        let (count, places) = (signed(decided.events.len() as u64), plan.places());
        let (count, places): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&count], [&places]);
        let client = line.client();
        // In this order: what is looked at after the locks is what was left by those who held them.
        let (locked, rows, drawn) = tokio::join!(
            biased;
            client.query(&lock, &places),
            try_join_all(selects.iter().map(|(select, keys)| async move { client.query(select, &[keys]).await })),
            client.query_one(&allocate, &count),
        );
        locked?;
        let by_key = |rows: Vec<Row>| {
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Fault>>()
        };
        let rows = rows?.into_iter().map(by_key).collect::<Result<_, Fault>>()?;
        let drawn = drawn?;
        Ok((Some((drawn.try_get(0)?, drawn.try_get(1)?)), rows))
    }
}

/// What is to be locked and looked up.
struct Wanted<'a> {
    shared: Vec<i32>,
    alone: Vec<i32>,
    names: Vec<String>,
    streams: Vec<String>,
    ids: Vec<uuid::Uuid>,
    queries: Vec<(&'a Query, Position)>,
}

impl<'a> Wanted<'a> {
    fn of(appends: &[&'a Append]) -> Result<Self> {
        let (mut shared, mut alone, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut streams, mut ids, mut looked): (Vec<String>, Vec<uuid::Uuid>, Vec<(&Query, Position)>) =
            (Vec::new(), Vec::new(), Vec::new());
        for append in appends {
            concerned(append, &mut names)?;
            if append.event_count() > 0 {
                shared.extend(sql::places_of_events(append));
            }
            for (stream, event) in append.events() {
                streams.push(stream.as_str().to_owned());
                ids.push(event.id.0);
            }
            for (query, after) in queries(append) {
                alone.extend(sql::places_of_query(query));
                if !looked.contains(&(query, after)) {
                    looked.push((query, after));
                }
            }
        }
        let (shared, alone) = (shared.into_iter().collect(), alone.into_iter().collect());
        Ok(Self { shared, alone, names: names.into_iter().collect(), streams, ids, queries: looked })
    }
}

fn recorded_event(row: &Row) -> Result<(Key, Content), Fault> {
    let placed =
        Placed { position: Position(number(row.try_get(2)?)), revision: Revision(number(row.try_get(3)?)) };
    let content = Content { placed, digest: row.try_get(4)?, writer: Some(row.try_get(5)?) };
    Ok(((row.try_get(0)?, EventId(row.try_get(1)?)), content))
}

/// Asks for the last visible event that matches beyond a position.
fn look_for(schema: &str, query: &Query, after: Position) -> Sql {
    let mut look = Sql::default();
    look.push("SELECT max(e.position) FROM factum.events e JOIN factum.streams s ON s.name = e.stream WHERE e.position > ")
        .bind(signed(after.0))
        .push(" AND ")
        .matching(query)
        .push(" AND ");
    sql::visible(&mut look, "(SELECT factum.moment())");
    look.text = in_schema(&look.text, schema);
    look
}

/// What `record` takes, in its order.
fn parameters<'p>(
    first: &'p Option<i64>,
    moment: &'p Option<i64>,
    events: &'p EventColumns,
    streams: &'p StreamColumns,
) -> [&'p (dyn ToSql + Sync); 22] {
    [
        first,
        moment,
        &events.streams,
        &events.revisions,
        &events.ids,
        &events.types,
        &events.categories,
        &events.content_types,
        &events.data,
        &events.data_bytes,
        &events.metadata,
        &events.metadata_bytes,
        &events.tags,
        &events.digests,
        &streams.names,
        &streams.last_revisions,
        &streams.hidden_befores,
        &streams.hidden_untils,
        &streams.truncate_befores,
        &streams.max_counts,
        &streams.max_ages,
        &streams.lives,
    ]
}
