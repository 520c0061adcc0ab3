//! A shop in which nothing is noticed that is done twice: so that these tests notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Aggregate, Command, Event, Factum, Identified, Recorded, Trouble,
    process::{Effect, Input, ProcessManager},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum ShopEvent {
    Placed,
    Reserved,
    Charged,
    Shipped,
    Refunded,
    Released,
    Cancelled,
}

impl Event for ShopEvent {
    const CATEGORY: &'static str = "shop";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ParcelEvent {
    Announced { order: String },
}

impl Event for ParcelEvent {
    const CATEGORY: &'static str = "parcel";
}

#[derive(Default)]
pub(super) struct Shop {
    pub(super) done: Vec<ShopEvent>,
}

impl Aggregate for Shop {
    type Event = ShopEvent;
    fn apply(&mut self, event: &ShopEvent) {
        self.done.push(event.clone());
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("it is broken")]
pub(super) struct Broken;

macro_rules! command {
    ($($name:ident => $event:ident),*) => {$(
        #[derive(Serialize)]
        pub(super) struct $name;
        impl Command<Shop> for $name {
            type Error = Broken;
            fn decide(&self, _: &Shop) -> Result<Vec<ShopEvent>, Broken> {
                Ok(vec![ShopEvent::$event])
            }
        }
    )*};
}
command!(Place => Placed, Reserve => Reserved, Pay => Charged, Refund => Refunded, Release => Released, Cancel => Cancelled);

#[derive(Serialize)]
pub(super) struct Ship {
    broken: bool,
}

impl Command<Shop> for Ship {
    type Error = Broken;
    fn decide(&self, _: &Shop) -> Result<Vec<ShopEvent>, Broken> {
        crate::refuse_if(self.broken, Broken)?;
        Ok(vec![ShopEvent::Shipped])
    }
}

#[derive(Default)]
pub(super) struct Fulfilment {
    /// The customer pays, later or never; else the process charges.
    pub(super) slow: bool,
    /// How many commands it has been asked to give.
    pub(super) asked: Arc<AtomicUsize>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Wish {
    Reserve { order: String },
    Release { order: String },
    Charge { order: String },
    Refund { order: String },
    Ship { order: String },
    Cancel { order: String },
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Order {
    id: String,
    pub(super) heard: Vec<String>,
}

#[async_trait]
impl ProcessManager for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Event = ShopEvent;
    type State = Order;
    type Command = Wish;

    fn instance(&self, event: &Recorded<ShopEvent>) -> Option<String> {
        Some(event.record.stream.id().to_owned())
    }

    fn evolve(&self, order: &mut Order, input: &Input<ShopEvent, Wish>) {
        order.heard.push(match input {
            Input::Event(event) => {
                order.id = event.record.stream.id().to_owned();
                format!("{:?}", event.event)
            }
            Input::Fired { timer, .. } => timer.id.clone(),
            Input::Refused { command, .. } => format!("{command:?} was refused"),
        });
    }

    fn react(&self, order: &Order, input: &Input<ShopEvent, Wish>) -> Vec<Effect<Wish>> {
        let id = || order.id.clone();
        match input {
            Input::Event(event) => match event.event {
                ShopEvent::Placed => {
                    let reserve = Effect::send(Wish::Reserve { order: id() });
                    vec![
                        reserve.undone_by(Wish::Release { order: id() }),
                        Effect::schedule("deadline", input.at().plus(Duration::from_secs(3600))),
                    ]
                }
                ShopEvent::Reserved if self.slow || order.id.starts_with("late") => vec![],
                ShopEvent::Reserved => {
                    let charge = Effect::send(Wish::Charge { order: id() });
                    vec![charge.undone_by(Wish::Refund { order: id() })]
                }
                ShopEvent::Charged => {
                    // Never undone: it is the last step, or refused.
                    let ship = Effect::send(Wish::Ship { order: id() });
                    vec![Effect::cancel("deadline"), ship.undone_by(Wish::Refund { order: id() })]
                }
                ShopEvent::Shipped => {
                    vec![Effect::publish(&ParcelEvent::Announced { order: id() }), Effect::Complete]
                }
                _ => vec![],
            },
            Input::Fired { .. } | Input::Refused { .. } => {
                vec![Effect::Compensate, Effect::send(Wish::Cancel { order: id() }), Effect::Complete]
            }
        }
    }

    async fn perform(&self, wish: Wish, factum: Identified<Factum>) -> Result<(), Trouble> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match wish {
            Wish::Reserve { order } => factum.execute(&Shop::id(order), Reserve).await?,
            Wish::Release { order } => factum.execute(&Shop::id(order), Release).await?,
            Wish::Charge { order } => factum.execute(&Shop::id(order), Pay).await?,
            Wish::Refund { order } => factum.execute(&Shop::id(order), Refund).await?,
            Wish::Ship { order } => {
                let broken = order.starts_with("broken");
                factum.execute(&Shop::id(order), Ship { broken }).await?
            }
            Wish::Cancel { order } if order.ends_with("for-good") => {
                return Err(Trouble::refused("it cannot be cancelled"));
            }
            Wish::Cancel { order } => factum.execute(&Shop::id(order), Cancel).await?,
        };
        Ok(())
    }
}

/// In which the customer pays, later or never.
pub(super) fn slow() -> Fulfilment {
    Fulfilment { slow: true, ..Fulfilment::default() }
}
