//! `umadb-core`, embedded: the writer thread, channel and limits with which its own server wires it.

use std::{
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot, watch};
use umadb_core::{
    db::UmaDb,
    io_shell::io_shell,
    mvcc::{Mvcc, StorageOptions},
    writer_thread_blocking::writer_thread_blocking,
    writer_thread_pipelining::writer_thread_pipelining,
    writer_thread_request::WriterThreadRequest,
};
use umadb_dcb::{DcbAppendCondition, DcbError, DcbEvent, DcbEventStoreSync, DcbQuery, DcbQueryItem};

use crate::peer::{Answer, Batch, Condition, Failure, Peer, Pending, Seen, Store, broken, tag_of};

/// As in its server: requests in the channel, events in a batch, events of one read.
const CHANNEL: usize = 1024;
const BATCH_EVENTS: usize = 2048;
const READ_EVENTS: u32 = 1024;

/// The peer: as its server starts it by default, or with the option for pipelined writes.
pub struct UmaDbCore {
    /// Whether batches are built while others are written.
    pub pipelined: bool,
}

struct Open {
    db: UmaDb,
    requests: mpsc::Sender<WriterThreadRequest>,
    head: watch::Receiver<Option<u64>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Peer for UmaDbCore {
    fn name(&self) -> &'static str {
        if self.pipelined { "umadb-pipelined" } else { "umadb" }
    }

    fn about(&self) -> &'static str {
        match self.pipelined {
            false => "umadb-core 0.7.8 embedded, wired as its server does by default; streams are tags",
            true => "umadb-core 0.7.8 embedded, with its server's option for pipelined writes (io_uring)",
        }
    }

    fn is_extra(&self) -> bool {
        self.pipelined
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Store>, Failure> {
        let options = StorageOptions::default().db_path(directory).pipelined_writer(self.pipelined);
        let mvcc = Arc::new(Mvcc::new(false, options).map_err(broken)?);
        let (requests, incoming) = mpsc::channel(CHANNEL);
        let db = UmaDb::from_arc(mvcc.clone());
        let (heads, head) = watch::channel(db.head().map_err(broken)?);
        let mut threads = Vec::new();
        if self.pipelined {
            let (jobs, taken) = mpsc::unbounded_channel();
            let (path, page_size) = (mvcc.db_path.clone(), mvcc.page_size);
            threads.push(thread::spawn(move || io_shell::start_io_uring_thread(path, page_size, taken)));
            threads.push(thread::spawn(move || {
                writer_thread_pipelining(jobs, mvcc, incoming, heads, BATCH_EVENTS);
            }));
        } else {
            threads.push(thread::spawn(move || writer_thread_blocking(mvcc, incoming, heads, BATCH_EVENTS)));
        }
        Ok(Arc::new(Open { db, requests, head, threads: Mutex::new(threads) }))
    }
}

fn request_of(batch: &Batch) -> (WriterThreadRequest, oneshot::Receiver<Result<u64, DcbError>>) {
    let (response_tx, response) = oneshot::channel();
    let events = batch.with_tags(Ok::<_, Infallible>, |fact, tags| {
        Ok(DcbEvent::new().event_type(fact.name).data(fact.data).tags(tags))
    });
    let Ok(events) = events;
    let condition = match &batch.condition {
        Condition::None => None,
        Condition::Revision { after, .. } => Some((query_of(&[tag_of(batch.entity)]), *after)),
        Condition::Tags { any_of, after } => Some((query_of(any_of), *after)),
    };
    let condition =
        condition.map(|(query, after)| DcbAppendCondition::new(query).after((after > 0).then_some(after)));
    (
        WriterThreadRequest::Append { events, condition, tracking_info: None, response_tx, cancel: None },
        response,
    )
}

fn query_of(any_of: &[String]) -> DcbQuery {
    DcbQuery::with_items(any_of.iter().map(|tag| DcbQueryItem::new().tags([tag.as_str()])))
}

fn answer(result: Result<Result<u64, DcbError>, oneshot::error::RecvError>) -> Answer {
    match result.map_err(broken)? {
        Ok(position) => Ok(position),
        Err(DcbError::IntegrityError(_)) => Err(Failure::Conflict),
        Err(error) => Err(broken(error)),
    }
}

impl Open {
    /// Reads page after page, as its server does, to where the log ended at the beginning.
    fn read(&self, query: &DcbQuery, mut seen: Seen) -> Result<Seen, Failure> {
        seen.upto = self.db.head().map_err(broken)?.unwrap_or(0);
        let mut from = None;
        loop {
            let page = self.db.read(Some(query.clone()), from, false, Some(READ_EVENTS)).map_err(broken)?;
            let (mut count, mut last) = (0, 0);
            for event in page {
                let event = event.map_err(broken)?;
                (count, last) = (count + 1, event.position);
                seen.look(&event.event.data);
            }
            if count < READ_EVENTS || last >= seen.upto {
                return Ok(seen);
            }
            from = Some(last + 1);
        }
    }
}

impl Store for Open {
    fn append(&self, batch: Batch) -> Answer {
        let (request, response) = request_of(&batch);
        self.requests.blocking_send(request).map_err(broken)?;
        answer(response.blocking_recv())
    }

    fn append_in_task(self: Arc<Self>, batch: Batch) -> Pending {
        Box::pin(async move {
            let (request, response) = request_of(&batch);
            self.requests.send(request).await.map_err(broken)?;
            answer(response.await)
        })
    }

    fn read_tags(&self, any_of: &[String]) -> Result<Seen, Failure> {
        self.read(&query_of(any_of), Seen::default())
    }

    fn scan(&self, event_type: Option<&str>) -> Result<Seen, Failure> {
        let query = match event_type {
            None => DcbQuery::new(),
            Some(name) => DcbQuery::with_items([DcbQueryItem::new().types([name])]),
        };
        self.read(&query, Seen::default())
    }

    fn follow(&self, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        let (mut head, mut from) = (self.head.clone(), None);
        loop {
            let page = self.db.read(None, from, false, Some(READ_EVENTS)).map_err(broken)?;
            let mut count = 0;
            for event in page {
                let event = event.map_err(broken)?;
                (count, from) = (count + 1, Some(event.position + 1));
                if !each(&event.event.data) {
                    return Ok(());
                }
            }
            if count == 0 {
                let next = from.unwrap_or(1);
                pollster::block_on(head.wait_for(|head| head.is_some_and(|head| head >= next)))
                    .map_err(broken)?;
            }
        }
    }

    fn close(&self) -> Result<(), Failure> {
        let _ = self.requests.blocking_send(WriterThreadRequest::Shutdown);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            thread.join().map_err(|_| broken("a thread of UmaDB panicked"))?;
        }
        Ok(())
    }
}
