//! The payment provider: somebody else's service, which the shop can only ask. It has books of its own, and it is flaky.
//!
//! What it promises is what such services promise: a request has a key, and a request that was carried out is not carried out
//! again under that key, but answered as it was the first time. Whether it was carried out, nobody knows who did not get the answer.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use factum::prelude::*;

use crate::cents::Cents;

/// The card that the provider declines.
pub(crate) const NO_MONEY: &str = "empty";

/// What the provider has in its books about a charge, whose id is the request's key.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(category = "charge")]
pub(crate) enum ChargeEvent {
    /// For an order: what the merchant calls it, so that both can compare their books.
    Taken {
        order: String,
        amount: Cents,
    },
    Declined {
        why: String,
    },
    GivenBack {
        amount: Cents,
    },
}

/// A charge in the provider's books.
#[derive(Debug, Default)]
struct Charge {
    taken: Option<Cents>,
    declined: Option<String>,
    given_back: bool,
}

impl Aggregate for Charge {
    type Event = ChargeEvent;

    fn apply(&mut self, event: &ChargeEvent) {
        match event {
            ChargeEvent::Taken { amount, .. } => self.taken = Some(*amount),
            ChargeEvent::Declined { why } => self.declined = Some(why.clone()),
            ChargeEvent::GivenBack { .. } => self.given_back = true,
        }
    }
}

struct Take {
    order: String,
    card: String,
    amount: Cents,
}

impl Command<Charge> for Take {
    type Error = Answer;

    fn decide(&self, charge: &Charge) -> Result<Vec<ChargeEvent>, Answer> {
        if charge.taken.is_some() || charge.declined.is_some() {
            return Ok(vec![]);
        }
        if self.card == NO_MONEY {
            return Ok(vec![ChargeEvent::Declined { why: format!("the card `{}` is declined", self.card) }]);
        }
        Ok(vec![ChargeEvent::Taken { order: self.order.clone(), amount: self.amount }])
    }
}

struct GiveBack;

impl Command<Charge> for GiveBack {
    type Error = Answer;

    fn decide(&self, charge: &Charge) -> Result<Vec<ChargeEvent>, Answer> {
        match charge.taken {
            None => Err(Answer::Refused("there is no such charge".to_owned())),
            Some(_) if charge.given_back => Ok(vec![]),
            Some(amount) => Ok(vec![ChargeEvent::GivenBack { amount }]),
        }
    }
}

/// How the provider answers, when it does not do what it is asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Answer {
    #[error("{0}")]
    Refused(String),
    /// Nobody knows whether it has done it.
    #[error("the payment provider has not answered in time")]
    TimedOut,
    #[error("the payment provider is out of order: {0}")]
    OutOfOrder(String),
}

/// A refusal is an answer. To get one, ask again.
impl From<Answer> for factum::Trouble {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Refused(_) => Self::refused(answer),
            Answer::TimedOut | Answer::OutOfOrder(_) => Self::infrastructure(answer),
        }
    }
}

impl From<Failure<Self>> for Answer {
    fn from(failure: Failure<Self>) -> Self {
        match failure {
            Failure::Refused(answer) => answer,
            Failure::Store(error) => Self::OutOfOrder(error.to_string()),
        }
    }
}

/// How flaky the provider is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Faults {
    /// Everything works
    Off,
    /// One request to the payment provider in twenty goes wrong, and the workers are restarted now and then
    Some,
    /// One request in four goes wrong, and the workers are restarted all the time
    Many,
}

impl Faults {
    /// Requests in a hundred that go wrong.
    fn of_a_hundred(self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Some => 5,
            Self::Many => 25,
        }
    }
}

/// What became of the requests to the provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// It did not answer, and has done nothing.
    pub(crate) lost: u64,
    /// It did not answer, but has done it.
    pub(crate) unanswered: u64,
    /// It took its time.
    pub(crate) late: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.lost += other.lost;
        self.unanswered += other.unanswered;
        self.late += other.late;
    }
}

/// What the provider's books say of a charge.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Booked {
    pub(crate) order: String,
    pub(crate) taken: Cents,
    pub(crate) given_back: Cents,
}

/// The provider.
#[derive(Debug)]
pub(crate) struct Provider {
    books: Factum,
    faults: Faults,
    luck: Mutex<(fastrand::Rng, Tally)>,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Well,
    Lost,
    Unanswered,
    Late,
}

impl Provider {
    pub(crate) fn new(books: Factum, faults: Faults, seed: u64) -> Self {
        Self { books, faults, luck: Mutex::new((fastrand::Rng::with_seed(seed), Tally::default())) }
    }

    /// Takes money from a card, for an order. Answers with the receipt.
    pub(crate) async fn charge(
        &self,
        key: &str,
        order: &str,
        card: &str,
        amount: Cents,
    ) -> Result<String, Answer> {
        let charge = Charge::id(key);
        self.ask(async {
            let take = Take { order: order.to_owned(), card: card.to_owned(), amount };
            self.books.execute(&charge, take).await?;
            match self.books.load(&charge).await.map_err(|error| Answer::OutOfOrder(error.to_string()))?.state
            {
                Charge { declined: Some(why), .. } => Err(Answer::Refused(why)),
                _ => Ok(key.to_owned()),
            }
        })
        .await
    }

    /// Gives back what was taken under this receipt. A charge is given back once: the receipt is the key.
    pub(crate) async fn refund(&self, receipt: &str) -> Result<(), Answer> {
        self.ask(async { Ok(self.books.execute(&Charge::id(receipt), GiveBack).await.map(drop)?) }).await
    }

    /// A request over a network, to a service that has its moods.
    async fn ask<T>(&self, request: impl Future<Output = Result<T, Answer>>) -> Result<T, Answer> {
        let (fate, pause) = self.fate();
        match fate {
            Fate::Well => request.await,
            Fate::Lost => Err(Answer::TimedOut),
            Fate::Unanswered => request.await.and(Err(Answer::TimedOut)),
            Fate::Late => {
                tokio::time::sleep(pause).await;
                request.await
            }
        }
    }

    fn fate(&self) -> (Fate, Duration) {
        let mut luck = self.luck.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (random, tally) = &mut *luck;
        tally.requests += 1;
        let fate = match random.u32(0..100) {
            n if n >= self.faults.of_a_hundred() => Fate::Well,
            n if n % 3 == 0 => Fate::Lost,
            n if n % 3 == 1 => Fate::Unanswered,
            _ => Fate::Late,
        };
        match fate {
            Fate::Well => {}
            Fate::Lost => tally.lost += 1,
            Fate::Unanswered => tally.unanswered += 1,
            Fate::Late => tally.late += 1,
        }
        (fate, Duration::from_millis(random.u64(5..50)))
    }

    pub(crate) fn tally(&self) -> Tally {
        self.luck.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }

    /// What the provider has taken and given back, by its own books: each charge by its receipt.
    pub(crate) async fn books(&self) -> factum::Result<BTreeMap<String, Booked>> {
        let charges = factum::Read::query(ChargeEvent::query()?);
        let records = factum::EventStoreExt::read_to_end(&**self.books.store(), charges).await?;
        let mut books = BTreeMap::<String, Booked>::new();
        for Recorded { event, record } in Recorded::<ChargeEvent>::decode_all(records)? {
            let receipt = record.stream.id().to_owned();
            match event {
                ChargeEvent::Taken { order, amount } => {
                    let charge = books.entry(receipt).or_default();
                    charge.order = order;
                    charge.taken += amount;
                }
                ChargeEvent::GivenBack { amount } => books.entry(receipt).or_default().given_back += amount,
                ChargeEvent::Declined { .. } => {}
            }
        }
        Ok(books)
    }
}

#[cfg(test)]
mod tests {
    use factum::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn it_charges_once_whatever_it_answers() {
        let provider = Provider::new(Factum::new(MemoryStore::new()), Faults::Many, 6);
        for n in 0..100 {
            let receipt = loop {
                match provider.charge(&n.to_string(), "17", "visa", Cents(100)).await {
                    Ok(receipt) => break receipt,
                    Err(answer) => assert_eq!(answer, Answer::TimedOut),
                }
            };
            while n % 2 == 0 && provider.refund(&receipt).await.is_err() {}
        }
        let Tally { lost, unanswered, late, .. } = provider.tally();
        assert!(lost > 0 && unanswered > 0 && late > 0);
        let books = provider.books().await.unwrap();
        assert_eq!(books.len(), 100);
        for (receipt, booked) in books {
            let back = if receipt.parse::<u32>().unwrap().is_multiple_of(2) { 100 } else { 0 };
            assert_eq!(booked, Booked { order: "17".into(), taken: Cents(100), given_back: Cents(back) });
        }
    }

    #[tokio::test]
    async fn who_is_declined_stays_declined() {
        let provider = Provider::new(Factum::new(MemoryStore::new()), Faults::Off, 6);
        for card in [NO_MONEY, NO_MONEY, "visa"] {
            let answer = provider.charge("1", "17", card, Cents(100)).await;
            assert_eq!(answer, Err(Answer::Refused("the card `empty` is declined".into())));
        }
        assert!(provider.refund("1").await.is_err());
        assert_eq!(provider.books().await.unwrap(), BTreeMap::new());
    }
}
