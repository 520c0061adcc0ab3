//! Instances that fail, chains that go round in circles, and work that two do at once.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Hands, all, kinds, world};
use crate::{
    Aggregate, Command, Effect, Event, Factum, Identified, Input, MemoryReads, ProcessManager, Recorded,
    Trouble,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum BallEvent {
    Thrown,
    Caught,
    Dropped,
}

impl Event for BallEvent {
    const CATEGORY: &'static str = "ball";
}

#[derive(Default)]
struct Ball;

impl Aggregate for Ball {
    type Event = BallEvent;
    fn apply(&mut self, _: &BallEvent) {}
}

#[derive(Serialize)]
struct Say(BallEvent);

impl Command<Ball> for Say {
    type Error = std::convert::Infallible;
    fn decide(&self, _: &Ball) -> Result<Vec<BallEvent>, Self::Error> {
        Ok(vec![self.0.clone()])
    }
}

/// What is thrown is caught, and what is caught is thrown again.
#[derive(Clone, Default)]
struct Juggler {
    /// The ball that it cannot handle, as long as it cannot.
    hot: Arc<Mutex<Option<String>>>,
    /// Balls of which the hand fails, and not the head.
    slippery: bool,
    once: bool,
}

#[derive(Serialize, Deserialize)]
enum Wish {
    Say(String, BallEvent),
}

#[async_trait]
impl ProcessManager for Juggler {
    const NAME: &'static str = "juggler";
    type Event = BallEvent;
    type State = (String, usize);
    type Command = Wish;

    fn instance(&self, event: &Recorded<BallEvent>) -> Option<String> {
        Some(event.record.stream.id().to_owned())
    }

    fn evolve(&self, (ball, heard): &mut (String, usize), input: &Input<BallEvent, Wish>) {
        if let Input::Event(event) = input {
            *ball = event.record.stream.id().to_owned();
        }
        *heard += 1;
    }

    fn react(&self, (ball, _): &(String, usize), input: &Input<BallEvent, Wish>) -> Vec<Effect<Wish>> {
        if !self.slippery {
            let hot = self.hot.lock().unwrap().clone();
            assert!(hot.as_ref() != Some(ball), "it is hot");
        }
        let say = |event| vec![Effect::send(Wish::Say(ball.clone(), event))];
        match input {
            Input::Event(event) => match event.event {
                BallEvent::Thrown => say(BallEvent::Caught),
                BallEvent::Caught if self.once => vec![],
                BallEvent::Caught => say(BallEvent::Thrown),
                BallEvent::Dropped => {
                    vec![Effect::schedule("pick up", input.at().plus(Duration::from_secs(1)))]
                }
            },
            Input::Fired { .. } => say(BallEvent::Thrown),
            Input::Refused { .. } => vec![],
        }
    }

    async fn perform(&self, Wish::Say(ball, event): Wish, factum: Identified<Factum>) -> Result<(), Trouble> {
        if self.slippery {
            let hot = self.hot.lock().unwrap().clone();
            assert!(hot.as_ref() != Some(&ball), "it is hot");
        }
        factum.execute(&Ball::id(ball), Say(event)).await?;
        Ok(())
    }
}

async fn say(factum: &Factum, ball: &str, event: BallEvent) {
    factum.execute(&Ball::id(ball), Say(event)).await.unwrap();
}

#[tokio::test]
async fn a_chain_that_goes_round_in_circles_stops() {
    let (factum, _) = world();
    let mut hands = Hands::new(Juggler::default(), &factum, 20);
    say(&factum, "1", BallEvent::Thrown).await;
    let stuck = hands.settle(100).await.unwrap_err();
    let Trouble::Refused(why) = &stuck.trouble else { panic!("{stuck:?}") };
    assert!(why.contains("20 events long") && why.contains("round in circles"), "{why}");
    assert_eq!(kinds(&factum, "ball").await.len(), 11);
}

#[tokio::test]
async fn a_timer_begins_a_chain_anew() {
    let (factum, clock) = world();
    let mut hands = Hands::new(Juggler { once: true, ..Juggler::default() }, &factum, 8);
    for _ in 0..3 {
        say(&factum, "1", BallEvent::Dropped).await;
        hands.settle(100).await.unwrap();
        clock.advance(Duration::from_secs(1));
        hands.fire("1").await.unwrap();
        hands.settle(100).await.unwrap();
    }
    let depths = all(&**factum.store()).await.into_iter().map(|event| event.metadata.causation_depth());
    assert_eq!(depths.max(), Some(5));
}

/// The one that fails waits, with all that is for it; the others go on. Mended, it goes on where it was.
async fn quarantine(slippery: bool, parked_in: &str) {
    let (factum, clock) = world();
    let juggler = Juggler { slippery, once: true, ..Juggler::default() };
    let hot = juggler.hot.clone();
    let managing = factum.process_manager(juggler).attempts(1);
    let process = managing.start(Arc::new(MemoryReads::new())).await.unwrap();
    let patience = Duration::from_secs(20);
    // One has a timer set already.
    say(&factum, "hot", BallEvent::Dropped).await;
    process.wait_until_idle(patience).await.unwrap();
    *hot.lock().unwrap() = Some("hot".into());
    for _ in 0..3 {
        for ball in ["hot", "2", "3"] {
            say(&factum, ball, BallEvent::Thrown).await;
        }
    }
    process.wait_until_idle(patience).await.unwrap();
    // Its timer is set off, and waits behind what came before.
    clock.advance(Duration::from_secs(10));
    let fired = async {
        while !kinds(&factum, "juggler").await.iter().any(|kind| kind == "TimerFired") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(patience, fired).await.unwrap();
    process.wait_until_idle(patience).await.unwrap();
    let of = |ball: &'static str| {
        let factum = factum.clone();
        async move {
            let events = factum.history(&Ball::id(ball)).await.unwrap();
            events.into_iter().filter(|event| event.event == BallEvent::Caught).count()
        }
    };
    assert_eq!((of("hot").await, of("2").await, of("3").await), (0, 3, 3));
    let consumer = if parked_in == "juggler" { process.inbox() } else { process.outbox() };
    assert_eq!(consumer.name(), parked_in);
    let letters = consumer.parked().list().await.unwrap();
    assert!(letters.len() >= 3, "{letters:?}");
    assert!(letters.iter().all(|letter| letter.key == "juggler-hot"), "{letters:?}");
    // It is mended.
    *hot.lock().unwrap() = None;
    let asked = consumer.parked().retry("juggler-hot").await.unwrap();
    consumer.wait_for(asked).await.unwrap();
    let mended = async {
        while of("hot").await < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(patience, mended).await.unwrap();
    process.wait_until_idle(patience).await.unwrap();
    assert_eq!(process.instance("hot").await.unwrap().unwrap().state.1, 10);
    assert!(consumer.parked().list().await.unwrap().is_empty());
    process.stop().await;
}

#[tokio::test]
async fn an_instance_that_cannot_hear_holds_up_no_other() {
    quarantine(false, "juggler").await;
}

#[tokio::test]
async fn an_instance_that_cannot_perform_holds_up_no_other() {
    quarantine(true, "juggler_out").await;
}

/// Workers that do what they are told, when they are told.
#[derive(Clone, Default)]
struct Hesitant {
    orders: Arc<Mutex<Vec<Order>>>,
    began: Arc<Notify>,
    go: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Do,
    Refuse,
    /// Does it, and cannot say so any more.
    DoAndDie,
    HesitateAnd(Then),
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Do,
    Refuse,
}

#[async_trait]
impl ProcessManager for Hesitant {
    const NAME: &'static str = "hesitant";
    type Event = BallEvent;
    type State = ();
    type Command = Wish;

    fn instance(&self, event: &Recorded<BallEvent>) -> Option<String> {
        (event.event == BallEvent::Thrown).then(|| event.record.stream.id().to_owned())
    }

    fn evolve(&self, (): &mut (), _: &Input<BallEvent, Wish>) {}

    fn react(&self, (): &(), input: &Input<BallEvent, Wish>) -> Vec<Effect<Wish>> {
        match input {
            Input::Event(event) => {
                vec![Effect::send(Wish::Say(event.record.stream.id().to_owned(), BallEvent::Caught))]
            }
            _ => vec![],
        }
    }

    async fn perform(&self, Wish::Say(ball, event): Wish, factum: Identified<Factum>) -> Result<(), Trouble> {
        let order = self.orders.lock().unwrap().remove(0);
        let does = match order {
            Order::Do | Order::DoAndDie => true,
            Order::Refuse => false,
            Order::HesitateAnd(then) => {
                self.began.notify_one();
                if then == Then::Do {
                    self.go.notified().await;
                }
                then == Then::Do
            }
        };
        if does {
            factum.execute(&Ball::id(ball), Say(event)).await?;
            return match order {
                Order::DoAndDie => Err(Trouble::infrastructure("the process has died")),
                _ => Ok(()),
            };
        }
        if let Order::HesitateAnd(_) = order {
            self.go.notified().await;
        }
        Err(Trouble::refused("no"))
    }
}

/// A worker is held up in the middle of a command; another does the work; then the first goes on.
async fn held_up(first: Then, second: Order) -> (Vec<String>, Vec<String>) {
    let (factum, _) = world();
    let hesitant = Hesitant::default();
    *hesitant.orders.lock().unwrap() = vec![Order::HesitateAnd(first), second];
    let mut one = Hands::new(hesitant.clone(), &factum, 100);
    let mut other = Hands::new(hesitant.clone(), &factum, 100);
    say(&factum, "1", BallEvent::Thrown).await;
    let store = factum.store().clone();
    assert!(one.inbox.step(&*store, 10).await.unwrap());
    let outcome = {
        let (store, held_up) = (store.clone(), &mut one.outbox);
        let held_up = held_up.step(&*store, 10);
        let meanwhile = async {
            hesitant.began.notified().await;
            other.settle(10).await.unwrap();
            hesitant.go.notify_one();
        };
        tokio::join!(held_up, meanwhile).0
    };
    match first {
        // The other has told the instance: this attempt is over, and is no refusal of its own.
        Then::Do => assert!(outcome.unwrap_err().trouble.is_infrastructure()),
        // What it would refuse is done: there is nothing to try again.
        Then::Refuse => assert!(outcome.unwrap()),
    }
    one.settle(10).await.unwrap();
    (kinds(&factum, "ball").await, kinds(&factum, "hesitant").await)
}

#[tokio::test]
async fn what_is_done_is_not_refused_by_whoever_was_held_up() {
    let (balls, own) = held_up(Then::Refuse, Order::Do).await;
    assert_eq!(balls, ["Thrown", "Caught"]);
    assert_eq!(own, ["Reacted", "Performed"]);
}

/// Its first attempt was done, and its worker died before it could say so; the second sees the world as the first has left it.
#[tokio::test]
async fn what_is_done_is_not_refused_by_the_next_attempt() {
    let (factum, _) = world();
    let hesitant = Hesitant::default();
    *hesitant.orders.lock().unwrap() = vec![Order::DoAndDie, Order::Refuse];
    let mut hands = Hands::new(hesitant, &factum, 100);
    say(&factum, "1", BallEvent::Thrown).await;
    let store = factum.store().clone();
    assert!(hands.inbox.step(&*store, 10).await.unwrap());
    assert!(hands.outbox.step(&*store, 10).await.unwrap_err().trouble.is_infrastructure());
    hands.settle(10).await.unwrap();
    assert_eq!(kinds(&factum, "ball").await, ["Thrown", "Caught"]);
    assert_eq!(kinds(&factum, "hesitant").await, ["Reacted", "Performed"]);
}

#[tokio::test]
async fn what_was_refused_is_not_done_by_whoever_was_held_up() {
    let (balls, own) = held_up(Then::Do, Order::Refuse).await;
    assert_eq!(balls, ["Thrown"]);
    assert_eq!(own, ["Reacted", "CommandRefused", "Performed", "Reacted"]);
}
