//! The test kit for process managers: what it accepts, and what a failing test shows.

use std::time::Duration;

use factum::{
    Identified, Trouble,
    prelude::*,
    testkit::{START, given},
};

use crate::testkit::shows;

#[derive(Debug, Serialize, Deserialize)]
enum OrderEvent {
    Placed { customer: String },
    Withdrawn,
}

impl Event for OrderEvent {
    const CATEGORY: &'static str = "order";
}

#[derive(Debug, Serialize, Deserialize)]
enum PaymentEvent {
    Received { order: Option<String> },
}

impl Event for PaymentEvent {
    const CATEGORY: &'static str = "payment";
}

#[derive(EventSet)]
enum ShopEvent {
    Order(OrderEvent),
    Payment(PaymentEvent),
}

#[derive(Default)]
struct Order;

impl Aggregate for Order {
    type Event = OrderEvent;
    fn apply(&mut self, _: &OrderEvent) {}
}

#[derive(Serialize, Deserialize)]
enum Step {
    Pack { order: String },
    Unpack { order: String },
    Remind { customer: String },
}

struct Fulfilment;

#[derive(Default)]
struct State {
    order: String,
    customer: String,
}

#[factum::async_trait]
impl ProcessManager for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Event = ShopEvent;
    type State = State;
    type Command = Step;

    fn instance(&self, event: &Recorded<ShopEvent>) -> Option<String> {
        match &event.event {
            ShopEvent::Order(_) => Some(event.record.stream.id().to_owned()),
            ShopEvent::Payment(PaymentEvent::Received { order }) => order.clone(),
        }
    }

    fn evolve(&self, state: &mut State, input: &Input<ShopEvent, Step>) {
        if let Input::Event(event) = input
            && let ShopEvent::Order(OrderEvent::Placed { customer }) = &event.event
        {
            *state = State { order: event.record.stream.id().to_owned(), customer: customer.clone() };
        }
    }

    fn react(&self, State { order, customer }: &State, input: &Input<ShopEvent, Step>) -> Vec<Effect<Step>> {
        match input {
            Input::Event(event) => match &event.event {
                ShopEvent::Order(OrderEvent::Placed { .. }) => {
                    vec![Effect::schedule("payment", input.at().plus(Duration::from_secs(3600)))]
                }
                ShopEvent::Order(OrderEvent::Withdrawn) => panic!("nobody thought of that"),
                ShopEvent::Payment(_) => vec![
                    Effect::cancel("payment"),
                    Effect::send(Step::Pack { order: order.clone() })
                        .undone_by(Step::Unpack { order: order.clone() }),
                ],
            },
            Input::Fired { timer, at } => vec![
                Effect::send(Step::Remind { customer: customer.clone() }),
                Effect::schedule(&timer.id, at.plus(Duration::from_secs(60))),
            ],
            Input::Refused { .. } => vec![Effect::Compensate, Effect::Complete],
        }
    }

    async fn perform(&self, _: Step, _: Identified<Factum>) -> Result<(), Trouble> {
        Err(Trouble::refused("a test gives no command"))
    }
}

fn placed() -> Writes {
    Writes::to(&Order::id("17"), [OrderEvent::Placed { customer: "ada".into() }])
}

fn paid(order: Option<&str>) -> Writes {
    let order = order.map(str::to_owned);
    Writes::to_stream("payment-4711", vec![PaymentEvent::Received { order }])
}

fn pack() -> Step {
    Step::Pack { order: "17".into() }
}

fn seconds(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

#[test]
fn a_story_of_several_things_and_of_time() {
    let packed = || Effect::send(pack()).undone_by(Step::Unpack { order: "17".into() });
    given(placed())
        .process(Fulfilment)
        .then_effects([Effect::schedule("payment", seconds(3600))])
        .when_timer("payment")
        .then_effects([
            Effect::send(Step::Remind { customer: "ada".into() }),
            Effect::schedule("payment", seconds(3660)),
        ])
        .when(paid(None))
        .then_nothing()
        .when(paid(Some("17")))
        .then_effects([Effect::cancel("payment"), packed()])
        .when_refused(pack(), "there is no box")
        .then_effects([Effect::Compensate, Effect::Complete])
        .when(paid(Some("17")))
        .then_nothing();
    given(placed())
        .at("2026-03-31T12:00:00Z")
        .process(Fulfilment)
        .then_effects([Effect::schedule("payment", "2026-03-31T13:00:00Z".parse().unwrap())]);
}

#[test]
fn other_effects() {
    shows("other_effects", || {
        given(placed())
            .process(Fulfilment)
            .when(paid(None))
            .then_effects([Effect::cancel("payment"), Effect::send(pack())]);
    });
}

#[test]
fn no_such_timer_and_no_such_command() {
    shows("no_such_timer", || {
        given(placed()).and(paid(Some("17"))).process(Fulfilment).when_timer("payment");
    });
    shows("no_such_command", || {
        given(placed()).process(Fulfilment).when_refused(pack(), "there is no box");
    });
}

#[test]
fn a_process_that_panics() {
    shows("a_process_that_panics", || {
        let withdrawn = Writes::to(&Order::id("17"), [OrderEvent::Withdrawn]);
        given(placed()).process(Fulfilment).when(withdrawn);
    });
}
