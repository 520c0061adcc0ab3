//! Reading a whole model at one moment, page by page.

use std::panic::{AssertUnwindSafe, catch_unwind};

use async_trait::async_trait;
use factum::{
    Error, Result,
    reads::{PAGE, Pages},
};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Sqlite,
    fault::{Fault, explain},
    thread::said,
};

/// Rows on their way out of the database, page by page, from a thread that is one page ahead.
pub(crate) struct Stream<T> {
    pages: mpsc::Receiver<Result<Vec<T>>>,
    /// What was read at once.
    here: std::vec::IntoIter<Vec<T>>,
    /// It is not closed while it is read. Dropped last: closing it waits for who reads.
    _keeps: Sqlite,
}

/// Where rows are put.
pub(crate) struct Sink<'s, T> {
    page: Vec<T>,
    pages: &'s mpsc::Sender<Result<Vec<T>>>,
}

impl<T> Sink<'_, T> {
    /// `false`: nobody wants any more.
    pub(crate) fn put(&mut self, row: T) -> bool {
        self.page.push(row);
        self.page.len() < PAGE || self.pages.blocking_send(Ok(std::mem::take(&mut self.page))).is_ok()
    }
}

impl<T> Stream<T> {
    /// The next page; an empty one is the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<T>> {
        match self.here.next() {
            Some(page) => Ok(page),
            None => self.pages.recv().await.unwrap_or_else(|| Ok(Vec::new())),
        }
    }
}

#[async_trait]
impl Pages for Stream<(String, String)> {
    async fn next(&mut self) -> Result<Vec<(String, String)>> {
        self.next().await
    }
}

/// Tells first what it knows of the whole, and then puts out the rows.
pub(crate) trait Scanning<H, T>:
    FnOnce(&Connection, &mut dyn FnMut(H), &mut Sink<'_, T>) -> Result<(), Fault> + Send + 'static
{
}

impl<H, T, F> Scanning<H, T> for F where
    F: FnOnce(&Connection, &mut dyn FnMut(H), &mut Sink<'_, T>) -> Result<(), Fault> + Send + 'static
{
}

impl Sqlite {
    /// Reads at one moment of the database what `read` puts out. In a file there are connections for this alone, which
    /// hold up nobody else; the write-ahead log grows for as long as it reads. In memory, where all is anyway, it is read at once.
    pub(crate) async fn stream<H, T>(&self, read: impl Scanning<H, T>) -> Result<(H, Stream<T>)>
    where
        H: Send + 'static,
        T: Send + 'static,
    {
        let (pages, receiver) = mpsc::channel(1);
        let (head, got_head) = oneshot::channel();
        let place = self.place.clone();
        let scan = move |connection: &mut Connection| scan(connection, &place, read, head, &pages);
        let connections = self.connections.file.as_ref().map_or(self.writer(), |file| &file.scans);
        connections.send(scan);
        let mut stream = Stream { pages: receiver, here: Vec::new().into_iter(), _keeps: self.clone() };
        let early =
            || Error::invalid(format!("the reading of the SQLite database {}", self.place), "it ended early");
        let Ok(head) = got_head.await else { return Err(stream.next().await.err().unwrap_or_else(early)) };
        if self.connections.in_memory {
            let mut all = Vec::new();
            while let Some(page) = stream.pages.recv().await {
                all.push(page?);
            }
            stream.here = all.into_iter();
        }
        Ok((head, stream))
    }
}

/// Nobody is there to hear it if the caller has gone.
fn scan<H, T>(
    connection: &mut Connection,
    place: &str,
    read: impl Scanning<H, T>,
    head: oneshot::Sender<H>,
    pages: &mpsc::Sender<Result<Vec<T>>>,
) {
    let mut head = Some(head);
    let scan = AssertUnwindSafe(|| {
        let tx = connection.transaction()?;
        let mut sink = Sink { page: Vec::new(), pages };
        read(&tx, &mut |known| drop(head.take().map(|head| head.send(known))), &mut sink)?;
        if !sink.page.is_empty() {
            let _ = pages.blocking_send(Ok(sink.page));
        }
        Ok(())
    });
    let failed = match catch_unwind(scan) {
        Ok(Ok(())) => return,
        Ok(Err(fault)) => explain(place, fault),
        Err(panic) => {
            let what = format!("the reading of the SQLite database {place}");
            Error::invalid(what, format!("it panicked: {}", said(&*panic)))
        }
    };
    let _ = pages.blocking_send(Err(failed));
}
