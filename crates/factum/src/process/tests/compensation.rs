//! What is undone when an instance compensates, whatever became of its reactions.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Hands, kinds, world};
use crate::{
    Aggregate, Command, Effect, Event, Factum, Identified, Input, ProcessManager, Recorded, Trouble,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum HouseEvent {
    Ordered,
    Built(String),
    TornDown(String),
    GivenUp,
}

impl Event for HouseEvent {
    const CATEGORY: &'static str = "house";
}

#[derive(Default)]
struct House;

impl Aggregate for House {
    type Event = HouseEvent;
    fn apply(&mut self, _: &HouseEvent) {}
}

/// Is done each time that it is asked for: so that the tests notice.
#[derive(Serialize)]
struct Say(HouseEvent);

impl Command<House> for Say {
    type Error = std::convert::Infallible;
    fn decide(&self, _: &House) -> Result<Vec<HouseEvent>, Self::Error> {
        Ok(vec![self.0.clone()])
    }
}

/// What becomes of the walls.
#[derive(Clone, Copy, Default, PartialEq)]
enum Walls {
    #[default]
    Stand,
    /// They are built, and whoever did it cannot say so.
    Panic,
    /// Whoever builds them is held up, and goes on at the worst moment: when all is torn down, and nothing says so yet.
    Wait,
    /// The same, and cannot do it then.
    WaitAndRefuse,
}

/// Builds a cellar, walls and a roof in one reaction; tears down what there is when it is given up.
#[derive(Clone, Default)]
struct Builder {
    walls: Arc<Mutex<Walls>>,
    began: Arc<Notify>,
    go: Arc<Notify>,
    gone_on: Arc<Notify>,
}

#[derive(Serialize, Deserialize)]
enum Work {
    Build(String),
    TearDown(String),
}

#[async_trait]
impl ProcessManager for Builder {
    const NAME: &'static str = "builder";
    type Event = HouseEvent;
    type State = ();
    type Command = Work;

    fn instance(&self, event: &Recorded<HouseEvent>) -> Option<String> {
        Some(event.record.stream.id().to_owned())
    }

    fn evolve(&self, (): &mut (), _: &Input<HouseEvent, Work>) {}

    fn react(&self, (): &(), input: &Input<HouseEvent, Work>) -> Vec<Effect<Work>> {
        let Input::Event(Recorded { event, .. }) = input else { return vec![] };
        let build = |part: &str| {
            Effect::send(Work::Build(part.to_owned())).undone_by(Work::TearDown(part.to_owned()))
        };
        match event {
            HouseEvent::Ordered => ["cellar", "walls", "roof"].map(build).into(),
            HouseEvent::GivenUp => vec![Effect::Compensate],
            HouseEvent::Built(_) | HouseEvent::TornDown(_) => vec![],
        }
    }

    async fn perform(&self, work: Work, factum: Identified<Factum>) -> Result<(), Trouble> {
        let walls = *self.walls.lock().unwrap();
        let waits = matches!(walls, Walls::Wait | Walls::WaitAndRefuse);
        if matches!(&work, Work::Build(part) if part == "walls") && waits {
            self.began.notify_one();
            self.go.notified().await;
            if walls == Walls::WaitAndRefuse {
                return Err(Trouble::refused("there are no bricks"));
            }
        }
        let fails = matches!(&work, Work::Build(part) if part == "walls") && walls == Walls::Panic;
        let event = match work {
            Work::Build(part) => HouseEvent::Built(part),
            Work::TearDown(part) => HouseEvent::TornDown(part),
        };
        let last = event == HouseEvent::TornDown("cellar".to_owned());
        factum.execute(&House::id("1"), Say(event)).await?;
        if last && waits {
            self.go.notify_one();
            self.gone_on.notified().await;
        }
        assert!(!fails, "the mason has fallen off the walls");
        Ok(())
    }
}

async fn say(factum: &Factum, event: HouseEvent) {
    factum.execute(&House::id("1"), Say(event)).await.unwrap();
}

/// The house, word by word.
async fn house(factum: &Factum) -> Vec<String> {
    let word = |event: Recorded<HouseEvent>| match event.event {
        HouseEvent::Ordered => "ordered".to_owned(),
        HouseEvent::GivenUp => "given up".to_owned(),
        HouseEvent::Built(part) => format!("+{part}"),
        HouseEvent::TornDown(part) => format!("-{part}"),
    };
    factum.history(&House::id("1")).await.unwrap().into_iter().map(word).collect()
}

/// What an operator does who has seen enough of what fails: the outbox goes on behind it.
async fn skip(hands: &mut Hands<Builder>) {
    hands.outbox.at = Some(hands.store().head().await.unwrap().token);
}

#[tokio::test]
async fn of_what_was_skipped_everything_is_undone_that_may_have_been_done() {
    let (factum, _) = world();
    let builder = Builder::default();
    *builder.walls.lock().unwrap() = Walls::Panic;
    let mut hands = Hands::new(builder.clone(), &factum, 100);
    say(&factum, HouseEvent::Ordered).await;
    let stuck = hands.settle(10).await.unwrap_err();
    assert!(matches!(&stuck.trouble, Trouble::Refused(why) if why.contains("mason")), "{stuck:?}");
    skip(&mut hands).await;
    say(&factum, HouseEvent::GivenUp).await;
    hands.settle(10).await.unwrap();
    let undone = ["ordered", "+cellar", "+walls", "given up", "-roof", "-walls", "-cellar"];
    assert_eq!(house(&factum).await, undone);
    assert_eq!(
        kinds(&factum, "builder").await,
        [
            "Reacted",
            "Reacted",
            "Reacted",
            "Reacted",
            "Abandoned",
            "Performed",
            "Reacted",
            "Reacted",
            "Reacted"
        ]
    );
    // It is undone once.
    say(&factum, HouseEvent::GivenUp).await;
    hands.settle(10).await.unwrap();
    // And not done after all by a program that could, whose checkpoints are lost.
    *builder.walls.lock().unwrap() = Walls::Stand;
    let mut anew = Hands::new(builder, &factum, 100);
    anew.settle(10).await.unwrap();
    assert_eq!(house(&factum).await, [&undone[..], &["given up"]].concat());
    let stream = crate::process::manager::stream_of("builder", "1").unwrap();
    assert_eq!(anew.manager.load(&stream).await.unwrap().unperformed().count(), 0);
}

#[tokio::test]
async fn what_was_skipped_is_not_done_after_what_came_later() {
    let (factum, _) = world();
    let builder = Builder::default();
    *builder.walls.lock().unwrap() = Walls::Panic;
    let mut hands = Hands::new(builder.clone(), &factum, 100);
    say(&factum, HouseEvent::Ordered).await;
    hands.settle(10).await.unwrap_err();
    skip(&mut hands).await;
    *builder.walls.lock().unwrap() = Walls::Stand;
    say(&factum, HouseEvent::Ordered).await;
    hands.settle(10).await.unwrap();
    let mut anew = Hands::new(builder, &factum, 100);
    anew.settle(10).await.unwrap();
    let built = ["ordered", "+cellar", "+walls", "ordered", "+cellar", "+walls", "+roof"];
    assert_eq!(house(&factum).await, built);
}

#[tokio::test]
async fn what_was_undone_is_not_done_by_whoever_was_held_up() {
    held_up(Walls::Wait).await;
}

/// Its own refusal comes after what undoes all of it, and is no way past that.
#[tokio::test]
async fn nor_by_whoever_was_refused_meanwhile() {
    held_up(Walls::WaitAndRefuse).await;
}

async fn held_up(walls: Walls) {
    let (factum, _) = world();
    let builder = Builder::default();
    let mut one = Hands::new(builder.clone(), &factum, 100);
    let mut other = Hands::new(builder.clone(), &factum, 100);
    say(&factum, HouseEvent::Ordered).await;
    let store = factum.store().clone();
    assert!(one.inbox.step(&*store, 10).await.unwrap());
    *builder.walls.lock().unwrap() = walls;
    let outcome = {
        let held_up = async {
            let outcome = one.outbox.step(&*store, 10).await;
            builder.gone_on.notify_one();
            outcome
        };
        let meanwhile = async {
            builder.began.notified().await;
            skip(&mut other).await;
            say(&factum, HouseEvent::GivenUp).await;
            other.settle(10).await.unwrap();
        };
        tokio::join!(held_up, meanwhile).0
    };
    assert!(outcome.unwrap_err().trouble.is_infrastructure());
    one.settle(10).await.unwrap();
    assert_eq!(house(&factum).await, ["ordered", "+cellar", "given up", "-roof", "-walls", "-cellar"]);
}
