//! A store that notes down what it is asked and what it answers.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use factum::{
    Append, Appended, Delivery, Error, EventStore, Head, Limits, Outcome, Page, Position, Query, Read,
    Result, StreamName, StreamState, Subscription, Token,
};

use crate::history::{Answer, Call, History, Line, NEVER, Operation, Seen};

/// A store that records every operation before it is sent and after it was answered. Clones record into the same history.
#[derive(Clone, Debug)]
pub struct Recorder {
    store: Arc<dyn EventStore>,
    tape: Arc<Mutex<Tape>>,
}

#[derive(Debug)]
struct Tape {
    /// The number of the last line: the clock of the history.
    lines: u64,
    medium: Medium,
}

#[derive(Debug)]
enum Medium {
    Memory(History),
    File(File),
}

impl Recorder {
    /// Records in memory.
    ///
    /// # Errors
    /// Those of [`EventStore::head`].
    pub async fn in_memory(store: Arc<dyn EventStore>) -> Result<Self> {
        let base = store.head().await?.token.position;
        let medium = Medium::Memory(History { base, operations: Vec::new() });
        Ok(Self { store, tape: Arc::new(Mutex::new(Tape { lines: 0, medium })) })
    }

    /// Records at the end of a file, which may hold what earlier processes recorded of the same store. One process at a time.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the file cannot be written, and those of [`EventStore::head`].
    pub async fn to_file(store: Arc<dyn EventStore>, path: &Path) -> Result<Self> {
        let head = store.head().await?.token;
        let mut tape = Tape::open(path).map_err(|e| unwritten(&path.display().to_string(), &e))?;
        tape.line(Line::Opened(head))?;
        Ok(Self { store, tape: Arc::new(Mutex::new(tape)) })
    }

    /// What was recorded so far. Empty for a recorder that writes to a file: [load](History::load) that.
    pub fn history(&self) -> History {
        match &self.tape().medium {
            Medium::Memory(history) => history.clone(),
            Medium::File(_) => History::default(),
        }
    }

    /// What was recorded, without a copy. Empty for a recorder that writes to a file, and for the clones from now on.
    pub fn into_history(self) -> History {
        match &mut self.tape().medium {
            Medium::Memory(history) => std::mem::take(history),
            Medium::File(_) => History::default(),
        }
    }

    /// The store that is recorded.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    /// Starts a subscription whose deliveries are recorded.
    ///
    /// # Errors
    /// Those of [`factum::subscribe`].
    pub async fn subscribe(&self, query: Query, from: Option<Token>) -> Result<RecordedSubscription> {
        let name = self.tape().called(Call::Subscribe(query.clone()))?;
        let subscription = factum::subscribe(self.store.clone(), query, from).await;
        let subscription = self.answered(name, subscription, |new| Answer::Subscribed(new.token()))?;
        Ok(RecordedSubscription { name, subscription, recorder: self.clone() })
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered<T>(&self, name: u64, result: Result<T>, answer: impl FnOnce(&T) -> Answer) -> Result<T> {
        let answer = result.as_ref().map_or_else(Answer::from, answer);
        self.tape().answered(name, answer)?;
        result
    }
}

#[async_trait]
impl EventStore for Recorder {
    async fn append(&self, append: Append) -> Result<Appended> {
        let call = Call::from(&append);
        let name = self.tape().called(call)?;
        let result = self.store.append(append).await;
        self.answered(name, result, |done| Answer::Appended {
            places: done.events.clone(),
            replayed: done.replayed,
        })
    }

    async fn read(&self, read: Read) -> Result<Page> {
        let name = self.tape().called(Call::Read(Box::new(read.clone())))?;
        let result = self.store.read(read).await;
        self.answered(name, result, |page| Answer::Page {
            events: page.events.iter().map(Seen::from).collect(),
            token: page.token,
            head: page.head,
            next: page.next,
        })
    }

    async fn head(&self) -> Result<Head> {
        let name = self.tape().called(Call::Head)?;
        let result = self.store.head().await;
        self.answered(name, result, |head| Answer::Head(head.token))
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        let name = self.tape().called(Call::StreamState(stream.clone()))?;
        let result = self.store.stream_state(stream).await;
        self.answered(name, result, |state| Answer::State(*state))
    }

    async fn changed(&self, position: Position) {
        self.store.changed(position).await;
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }
}

/// A subscription whose deliveries are recorded.
#[derive(Debug)]
pub struct RecordedSubscription {
    name: u64,
    subscription: Subscription,
    recorder: Recorder,
}

impl RecordedSubscription {
    /// The same, taking at most `batch` events at once.
    #[must_use]
    pub fn with_batch(self, batch: usize) -> Self {
        Self { subscription: self.subscription.with_batch(batch), ..self }
    }

    /// How far it has delivered.
    pub fn token(&self) -> Token {
        self.subscription.token()
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// Those of [`Subscription::next`].
    pub async fn next(&mut self) -> Result<Delivery> {
        let name = self.recorder.tape().called(Call::Next(self.name))?;
        let result = self.subscription.next().await;
        self.recorder.answered(name, result, |delivery| match delivery {
            Delivery::Events { events, token } => {
                Answer::Events(events.iter().map(Seen::from).collect(), *token)
            }
            Delivery::LookedTo(token) => Answer::LookedTo(*token),
            Delivery::CaughtUp(token) => Answer::CaughtUp(*token),
            Delivery::FellBehind(token) => Answer::FellBehind(*token),
        })
    }
}

impl Tape {
    #[allow(
        clippy::disallowed_methods,
        reason = "a history is no data file; it outlives the process without a sync"
    )]
    fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if text.last().is_some_and(|&last| last != b'\n') {
            // Half a line of a process that was killed: end it, so that the next line stands alone.
            file.write_all(b"\n")?;
            text.push(b'\n');
        }
        let lines = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        Ok(Self { lines, medium: Medium::File(file) })
    }

    fn called(&mut self, call: Call) -> Result<u64> {
        self.line(Line::Call(call))?;
        Ok(self.lines)
    }

    fn answered(&mut self, name: u64, answer: Answer) -> Result<()> {
        self.line(Line::Answer(name, answer))
    }

    fn line(&mut self, line: Line) -> Result<()> {
        self.lines += 1;
        let (at, history) = match &mut self.medium {
            Medium::Memory(history) => (self.lines, history),
            Medium::File(file) => {
                let text =
                    serde_json::to_string(&line).map_err(|e| Error::invalid("the history", e.to_string()))?;
                return file
                    .write_all(format!("{text}\n").as_bytes())
                    .map_err(|e| unwritten("the history", &e));
            }
        };
        match line {
            Line::Opened(_) => {}
            Line::Call(call) => {
                history.operations.push(Operation { invoked: at, completed: NEVER, call, answer: None });
            }
            Line::Answer(name, answer) => {
                let found = history.operations.binary_search_by_key(&name, |operation| operation.invoked);
                if let Ok(index) = found {
                    let operation = &mut history.operations[index];
                    (operation.completed, operation.answer) = (at, Some(answer));
                }
            }
        }
        Ok(())
    }
}

/// The operation itself may have happened: only its recording failed.
fn unwritten(what: &str, error: &std::io::Error) -> Error {
    Error::Unavailable { why: format!("{what} cannot be written ({error})"), outcome: Outcome::Unknown }
}
