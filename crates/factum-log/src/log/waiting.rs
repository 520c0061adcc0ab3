//! Appends for which there was no room.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::{batch::Request, index::AsItIs};

/// Those that wait, in the order in which they came.
#[derive(Debug, Default)]
pub struct Waiting {
    requests: VecDeque<Request>,
    /// The hashes of their ids, and how many of them have each.
    ids: HashMap<u64, usize, AsItIs>,
}

impl Waiting {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Who came first.
    pub fn first(&self) -> Option<&Request> {
        self.requests.front()
    }

    /// Whether an event with this hash of its id waits.
    pub fn has(&self, id_hash: u64) -> bool {
        self.ids.contains_key(&id_hash)
    }

    /// Whether any event of a request waits already: it was sent again.
    pub fn has_any_of(&self, request: &Request) -> bool {
        !self.is_empty() && request.ids().any(|(hash, _)| self.has(hash))
    }

    /// Puts a request behind all others.
    pub fn push(&mut self, request: Request) {
        for (hash, _) in request.ids() {
            *self.ids.entry(hash).or_default() += 1;
        }
        self.requests.push_back(request);
    }

    /// Takes the one that came first, if it fits.
    pub fn pop_if(&mut self, fits: impl FnOnce(&Request) -> bool) -> Option<Request> {
        if !fits(self.requests.front()?) {
            return None;
        }
        let request = self.requests.pop_front()?;
        for (hash, _) in request.ids() {
            if let Entry::Occupied(mut entry) = self.ids.entry(hash) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
        Some(request)
    }

    /// Takes all of them.
    pub fn take(&mut self) -> VecDeque<Request> {
        self.ids.clear();
        std::mem::take(&mut self.requests)
    }
}
