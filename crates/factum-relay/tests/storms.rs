//! The storms themselves, on a broker in memory: each seeded bug is noticed.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use factum::{Stuck, Trouble, async_trait};
use factum_relay::{Broker, Message, Stamp};
use support::{
    mischief::Bug,
    seed,
    storm::{Received, Storm, Victim},
};

/// A broker in memory that can go away.
#[derive(Clone, Debug, Default)]
struct Shelf(Arc<Mutex<Shelved>>);

#[derive(Debug, Default)]
struct Shelved {
    gone: bool,
    messages: Vec<Received>,
}

#[async_trait]
impl Broker for Shelf {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        for (done, message) in messages.iter().enumerate() {
            if done % 16 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut shelf = self.0.lock().unwrap();
            if shelf.gone {
                return Err(Stuck { done, trouble: Trouble::infrastructure("the shelf is gone") });
            }
            shelf.messages.push((Stamp::from(message), message.body().to_vec()));
        }
        Ok(())
    }
}

impl Victim for Shelf {
    fn kill(&mut self) {
        self.0.lock().unwrap().gone = true;
    }

    async fn run(&mut self) {
        self.0.lock().unwrap().gone = false;
    }
}

async fn storm(seed: u64, runtime: bool, bug: Option<Bug>) {
    let mut shelf = Shelf::default();
    let broker = Arc::new(shelf.clone());
    let storm = Storm { seed, messages: 6_000, keys: 50, workers: 4, bug };
    let published = match runtime {
        true => storm.run(broker, &mut shelf, 6).await,
        false => storm.publish(broker, &mut shelf, 6).await,
    };
    let received = std::mem::take(&mut shelf.0.lock().unwrap().messages);
    published.check("memory", &received).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_a_bug_passes() {
    let seed = seed("memory");
    storm(seed, false, None).await;
    storm(seed, true, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_seeded_bug_is_noticed() {
    let seed = seed("memory");
    let all = Bug::ALL.into_iter().flat_map(|bug| [(bug, false), (bug, true)]);
    // They sleep most of the time.
    let storms: Vec<_> =
        all.map(|(bug, runtime)| (bug, tokio::spawn(storm(seed, runtime, Some(bug))))).collect();
    for (bug, storm) in storms {
        let panic = storm.await.expect_err(&format!("{bug:?} went unnoticed")).into_panic();
        let said = panic.downcast_ref::<String>().map_or("", |said| said);
        // A receiver sees it in what it has; that something takes too long, or was not harmed, would be no proof.
        let expected = ["lost or invented", "not whole", "came late"];
        assert!(expected.iter().any(|expected| said.contains(expected)), "{bug:?}: {said}");
    }
}
