//! The process: an order that is placed comes to an end, a good one or a cancelled one, whatever fails on the way.
//!
//! Stock is reserved for each line, the customer is asked to pay and charged, the goods are shipped. When a step is refused, or
//! nobody pays in time, what was done is undone, the last of it first.

use std::{sync::Arc, time::Duration};

use factum::{Identified, Trouble, prelude::*};

use crate::{
    cents::Cents,
    order::{self, Line, Order, OrderEvent},
    payment::{self, Payment, PaymentEvent},
    provider::Provider,
    shipment::{Dispatch, Shipment, ShipmentEvent},
    stock::{self, Stock, StockEvent},
};

/// The timer after which nobody may pay any more.
pub(crate) const DEADLINE: &str = "payment";

/// Brings orders to their end. There is one instance for each order.
#[derive(Debug)]
pub(crate) struct Fulfilment {
    pub(crate) provider: Arc<Provider>,
}

/// What it hears of.
#[derive(Clone, Debug, PartialEq, EventSet)]
pub(crate) enum Happened {
    Order(OrderEvent),
    Stock(StockEvent),
    Payment(PaymentEvent),
    Shipment(ShipmentEvent),
}

/// What it asks of others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Step {
    Reserve { order: String, product: String, pieces: u32 },
    Release { order: String, product: String },
    RequestPayment { order: String, customer: String, amount: Cents },
    VoidPayment { order: String },
    Charge { order: String, card: String, amount: Cents },
    Refund { order: String },
    Dispatch { order: String, address: String },
    HandOver { order: String, product: String },
    Complete { order: String },
    Cancel { order: String, why: String },
}

/// What it knows of an order.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    order: String,
    customer: String,
    address: String,
    lines: Vec<Line>,
    /// Lines for which there is stock.
    reserved: usize,
    /// What has gone wrong: with the first of it the order is given up.
    failures: usize,
}

#[factum::async_trait]
impl ProcessManager for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Event = Happened;
    type State = Progress;
    type Command = Step;

    fn instance(&self, happened: &Recorded<Happened>) -> Option<String> {
        let own_id = || Some(happened.record.stream.id().to_owned());
        match &happened.event {
            Happened::Order(_)
            | Happened::Payment(PaymentEvent::Authorised { .. } | PaymentEvent::Charged { .. })
            | Happened::Shipment(ShipmentEvent::Dispatched { .. }) => own_id(),
            Happened::Stock(StockEvent::Reserved { order, .. }) => Some(order.clone()),
            Happened::Stock(_) | Happened::Payment(_) => None,
        }
    }

    fn evolve(&self, progress: &mut Progress, input: &Input<Happened, Step>) {
        let Input::Event(happened) = input else {
            progress.failures += 1;
            return;
        };
        match &happened.event {
            Happened::Order(OrderEvent::Placed { customer, address, lines, .. }) => {
                *progress = Progress {
                    order: happened.record.stream.id().to_owned(),
                    customer: customer.clone(),
                    address: address.clone(),
                    lines: lines.clone(),
                    ..Progress::default()
                };
            }
            Happened::Stock(StockEvent::Reserved { .. }) => progress.reserved += 1,
            _ => {}
        }
    }

    fn react(&self, progress: &Progress, input: &Input<Happened, Step>) -> Vec<Effect<Step>> {
        match input {
            Input::Event(happened) => progress.go_on(&happened.event, input.at()),
            // Of what was asked for at once, more than one thing may be refused.
            _ if progress.failures > 1 => vec![],
            Input::Fired { .. } => progress.give_up("it was not paid in time".to_owned()),
            Input::Refused { command: Step::Reserve { product, .. }, why, .. } => {
                progress.give_up(format!("{product}: {why}"))
            }
            Input::Refused { why, .. } => progress.give_up(why.clone()),
        }
    }

    async fn perform(&self, step: Step, factum: Identified<Factum>) -> Result<(), Trouble> {
        match step {
            Step::Reserve { order, product, pieces } => {
                factum.execute(&Stock::id(product), stock::Reserve { order, pieces }).await?
            }
            Step::Release { order, product } => {
                factum.execute(&Stock::id(product), stock::Release { order }).await?
            }
            Step::RequestPayment { order, customer, amount } => {
                factum.execute(&Payment::id(order), payment::Request { customer, amount }).await?
            }
            Step::VoidPayment { order } => factum.execute(&Payment::id(order), payment::Void).await?,
            // The provider is told the command's id: however often it is asked, it charges once.
            Step::Charge { order, card, amount } => {
                let receipt = self.provider.charge(factum.id(), &order, &card, amount).await?;
                factum.execute(&Payment::id(order), payment::NoteCharge { receipt }).await?
            }
            Step::Refund { order } => {
                let payment = Payment::id(order);
                let receipt = factum.handle().load(&payment).await?.state.receipt;
                let receipt = receipt.ok_or_else(|| Trouble::refused(payment::PaymentRefusal::NotCharged))?;
                self.provider.refund(&receipt).await?;
                factum.execute(&payment, payment::NoteRefund).await?
            }
            Step::Dispatch { order, address } => {
                factum.execute(&Shipment::id(order), Dispatch { address }).await?
            }
            Step::HandOver { order, product } => {
                factum.execute(&Stock::id(product), stock::HandOver { order }).await?
            }
            Step::Complete { order } => factum.execute(&Order::id(order), order::Complete).await?,
            Step::Cancel { order, why } => factum.execute(&Order::id(order), order::Cancel { why }).await?,
        };
        Ok(())
    }
}

impl Progress {
    /// What comes after what happened.
    fn go_on(&self, happened: &Happened, at: Timestamp) -> Vec<Effect<Step>> {
        match happened {
            Happened::Order(OrderEvent::Completed { .. } | OrderEvent::Cancelled { .. }) => {
                vec![Effect::Complete]
            }
            // What was under way when it was given up changes nothing.
            _ if self.failures > 0 => vec![],
            Happened::Order(OrderEvent::Placed { pay_within_s, .. }) => {
                let deadline = at.plus(Duration::from_secs(*pay_within_s));
                let mut effects = vec![Effect::schedule(DEADLINE, deadline)];
                effects.extend(self.lines.iter().map(|line| self.reserve(line)));
                effects
            }
            Happened::Stock(_) if self.reserved == self.lines.len() => vec![self.request_payment()],
            Happened::Stock(_) => vec![],
            Happened::Payment(PaymentEvent::Authorised { card }) => {
                vec![Effect::cancel(DEADLINE), self.charge(card)]
            }
            Happened::Payment(PaymentEvent::Charged { .. }) => vec![self.dispatch()],
            Happened::Payment(_) => vec![],
            Happened::Shipment(_) => {
                let mut effects: Vec<_> = self.lines.iter().map(|line| self.hand_over(line)).collect();
                effects.push(Effect::send(Step::Complete { order: self.order.clone() }));
                effects
            }
        }
    }

    fn reserve(&self, line: &Line) -> Effect<Step> {
        let (order, product) = (self.order.clone(), line.product.clone());
        let undo = Step::Release { order: order.clone(), product: product.clone() };
        Effect::send(Step::Reserve { order, product, pieces: line.pieces }).undone_by(undo)
    }

    fn request_payment(&self) -> Effect<Step> {
        let (order, customer, amount) =
            (self.order.clone(), self.customer.clone(), order::total(&self.lines));
        let undo = Step::VoidPayment { order: order.clone() };
        Effect::send(Step::RequestPayment { order, customer, amount }).undone_by(undo)
    }

    fn charge(&self, card: &str) -> Effect<Step> {
        let (order, card, amount) = (self.order.clone(), card.to_owned(), order::total(&self.lines));
        let undo = Step::Refund { order: order.clone() };
        Effect::send(Step::Charge { order, card, amount }).undone_by(undo)
    }

    fn dispatch(&self) -> Effect<Step> {
        Effect::send(Step::Dispatch { order: self.order.clone(), address: self.address.clone() })
    }

    fn hand_over(&self, line: &Line) -> Effect<Step> {
        Effect::send(Step::HandOver { order: self.order.clone(), product: line.product.clone() })
    }

    /// Its end, and the timer's, comes when the order is cancelled: until then it hears what else is refused.
    fn give_up(&self, why: String) -> Vec<Effect<Step>> {
        vec![Effect::Compensate, Effect::send(Step::Cancel { order: self.order.clone(), why })]
    }
}

#[cfg(test)]
mod tests {
    use factum::{
        MemoryStore,
        testkit::{START, given},
    };

    use super::*;
    use crate::{provider::Faults, shipment::NOWHERE};

    fn fulfilment() -> Fulfilment {
        let provider = Provider::new(Factum::new(MemoryStore::new()), Faults::Off, 0);
        Fulfilment { provider: Arc::new(provider) }
    }

    fn order() -> String {
        "17".to_owned()
    }

    fn lines() -> Vec<Line> {
        let line = |product: &str, pieces| Line { product: product.into(), pieces, price: Cents(250) };
        vec![line("mug", 3), line("tea", 1)]
    }

    fn placed() -> Writes {
        let placed = OrderEvent::Placed {
            customer: "ada".into(),
            address: "Aarhus".into(),
            lines: lines(),
            pay_within_s: 60,
        };
        Writes::to(&Order::id("17"), [placed])
    }

    fn reserved(product: &str, pieces: u32) -> Writes {
        Writes::to(&Stock::id(product), [StockEvent::Reserved { order: order(), pieces }])
    }

    fn all_reserved() -> Writes {
        Writes::to(&Stock::id("mug"), [StockEvent::Reserved { order: order(), pieces: 3 }])
            .and(&Stock::id("tea"), [StockEvent::Reserved { order: order(), pieces: 1 }])
    }

    fn authorised() -> Writes {
        Writes::to(&Payment::id("17"), [PaymentEvent::Authorised { card: "visa".into() }])
    }

    fn charged() -> Writes {
        let receipt = "r1".into();
        Writes::to(
            &Payment::id("17"),
            [PaymentEvent::Charged { customer: "ada".into(), amount: Cents(1000), receipt }],
        )
    }

    fn reserve(product: &str, pieces: u32) -> Step {
        Step::Reserve { order: order(), product: product.into(), pieces }
    }

    fn give_up(why: &str) -> [Effect<Step>; 2] {
        [Effect::Compensate, Effect::send(Step::Cancel { order: order(), why: why.into() })]
    }

    fn ended(event: OrderEvent) -> Writes {
        Writes::to(&Order::id("17"), [event])
    }

    fn cancelled() -> Writes {
        ended(OrderEvent::Cancelled { customer: "ada".into(), why: String::new() })
    }

    #[test]
    fn stock_is_reserved_for_each_line_and_the_clock_runs() {
        let release = |product: &str| Step::Release { order: order(), product: product.into() };
        given(placed()).process(fulfilment()).then_effects([
            Effect::schedule(DEADLINE, START.plus(Duration::from_secs(60))),
            Effect::send(reserve("mug", 3)).undone_by(release("mug")),
            Effect::send(reserve("tea", 1)).undone_by(release("tea")),
        ]);
    }

    #[test]
    fn the_customer_is_asked_to_pay_when_everything_is_there() {
        let request = Step::RequestPayment { order: order(), customer: "ada".into(), amount: Cents(1000) };
        given(placed())
            .process(fulfilment())
            .when(reserved("mug", 3))
            .then_nothing()
            .when(reserved("tea", 1))
            .then_effects([Effect::send(request).undone_by(Step::VoidPayment { order: order() })]);
    }

    #[test]
    fn who_pays_is_charged_and_the_deadline_is_off() {
        let charge = Step::Charge { order: order(), card: "visa".into(), amount: Cents(1000) };
        given(placed()).and(all_reserved()).process(fulfilment()).when(authorised()).then_effects([
            Effect::cancel(DEADLINE),
            Effect::send(charge).undone_by(Step::Refund { order: order() }),
        ]);
    }

    #[test]
    fn what_is_paid_is_shipped_and_what_is_shipped_is_complete() {
        let dispatched =
            Writes::to(&Shipment::id("17"), [ShipmentEvent::Dispatched { address: "Aarhus".into() }]);
        let hand_over =
            |product: &str| Effect::send(Step::HandOver { order: order(), product: product.into() });
        given(placed())
            .and(all_reserved())
            .and(authorised())
            .process(fulfilment())
            .when(charged())
            .then_effects([Effect::send(Step::Dispatch { order: order(), address: "Aarhus".into() })])
            .when(dispatched)
            .then_effects([
                hand_over("mug"),
                hand_over("tea"),
                Effect::send(Step::Complete { order: order() }),
            ])
            .when(ended(OrderEvent::Completed { customer: "ada".into(), total: Cents(1000) }))
            .then_effects([Effect::Complete])
            .when(authorised())
            .then_nothing();
    }

    #[test]
    fn whatever_is_refused_the_order_is_given_up() {
        given(placed())
            .process(fulfilment())
            .when_refused(reserve("tea", 1), "0 are left")
            .then_effects(give_up("tea: 0 are left"))
            .when_refused(reserve("mug", 3), "2 are left")
            .then_nothing()
            .when(cancelled())
            .then_effects([Effect::Complete]);
        let charge = Step::Charge { order: order(), card: "visa".into(), amount: Cents(1000) };
        given(placed())
            .and(all_reserved())
            .and(authorised())
            .process(fulfilment())
            .when_refused(charge, "declined")
            .then_effects(give_up("declined"));
        let dispatch = Step::Dispatch { order: order(), address: "Aarhus".into() };
        given(placed())
            .and(all_reserved())
            .and(authorised())
            .and(charged())
            .process(fulfilment())
            .when_refused(dispatch, NOWHERE)
            .then_effects(give_up(NOWHERE));
    }

    #[test]
    fn who_does_not_pay_in_time_gets_nothing() {
        let late = given(placed()).and(all_reserved()).process(fulfilment()).when_timer(DEADLINE);
        late.then_effects(give_up("it was not paid in time")).when(authorised()).then_nothing();
    }

    #[test]
    fn what_is_given_up_is_not_gone_on_with() {
        given(placed())
            .process(fulfilment())
            .when_refused(reserve("tea", 1), "0 are left")
            .when(reserved("mug", 3))
            .then_nothing()
            .when(reserved("tea", 1))
            .then_nothing();
    }
}
