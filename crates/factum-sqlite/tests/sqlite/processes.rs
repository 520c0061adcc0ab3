//! A process manager on a log and a database in a directory: what is due while nobody is there happens afterwards.

use std::time::Duration;

use factum::{Identified, Trouble, prelude::*};
use factum_log::LogStore;
use factum_sqlite::Sqlite;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum EggEvent {
    Boiling,
    Done,
}

impl Event for EggEvent {
    const CATEGORY: &'static str = "egg";
}

#[derive(Default)]
struct Egg;

impl Aggregate for Egg {
    type Event = EggEvent;
    fn apply(&mut self, _: &EggEvent) {}
}

#[derive(Serialize)]
struct Say(EggEvent);

impl Command<Egg> for Say {
    type Error = std::convert::Infallible;
    fn decide(&self, _: &Egg) -> Result<Vec<EggEvent>, Self::Error> {
        Ok(vec![self.0.clone()])
    }
}

struct Kitchen;

#[factum::async_trait]
impl ProcessManager for Kitchen {
    const NAME: &'static str = "kitchen";
    type Event = EggEvent;
    type State = String;
    type Command = String;

    fn instance(&self, event: &Recorded<EggEvent>) -> Option<String> {
        Some(event.record.stream.id().to_owned())
    }

    fn evolve(&self, egg: &mut String, input: &Input<EggEvent, String>) {
        if let Input::Event(event) = input {
            event.record.stream.id().clone_into(egg);
        }
    }

    fn react(&self, egg: &String, input: &Input<EggEvent, String>) -> Vec<Effect<String>> {
        match input {
            Input::Event(event) if event.event == EggEvent::Boiling => {
                vec![Effect::schedule("done", input.at().plus(Duration::from_millis(300)))]
            }
            Input::Event(_) => vec![Effect::Complete],
            _ => vec![Effect::send(egg.clone())],
        }
    }

    async fn perform(&self, egg: String, factum: Identified<Factum>) -> Result<(), Trouble> {
        factum.execute(&Egg::id(egg), Say(EggEvent::Done)).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_while_nobody_is_there_happens_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let store = LogStore::open(dir.path().join("log")).unwrap();
        (Factum::new(store), Sqlite::open(dir.path().join("read.db")).unwrap())
    };
    {
        let (factum, reads) = open();
        let kitchen = factum.process(Kitchen, reads).await.unwrap();
        let done = factum.execute(&Egg::id("1"), Say(EggEvent::Boiling)).await.unwrap();
        kitchen.wait_for(&done).await.unwrap();
        assert_eq!(kitchen.instance("1").await.unwrap().unwrap().timers.len(), 1);
        kitchen.stop().await;
    }
    for _ in 0..2 {
        let (factum, reads) = open();
        let kitchen = factum.process(Kitchen, reads).await.unwrap();
        let over = async {
            while !kitchen.instance("1").await.unwrap().unwrap().completed {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), over).await.unwrap();
        kitchen.wait_until_idle(Duration::from_secs(20)).await.unwrap();
        let egg: Vec<_> = factum.history(&Egg::id("1")).await.unwrap().into_iter().map(|e| e.event).collect();
        assert_eq!(egg, [EggEvent::Boiling, EggEvent::Done]);
        kitchen.stop().await;
    }
}
