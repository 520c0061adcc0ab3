//! Payments, as the shop knows them: one for each order, which is its id. The money itself moves at the [provider's](crate::provider).

use factum::prelude::*;

use crate::cents::Cents;

/// What happened to the payment of an order.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(category = "payment")]
pub(crate) enum PaymentEvent {
    /// The customer is asked for it.
    Requested { customer: String, amount: Cents },
    /// The customer agrees, with this card.
    Authorised { card: String },
    /// The provider has taken it.
    Charged { customer: String, amount: Cents, receipt: String },
    /// The provider has given it back.
    Refunded { customer: String, amount: Cents },
    /// It is not wanted any more.
    Voided,
}

/// The payment of an order, as far as decisions must know it.
#[derive(Debug, Default)]
pub(crate) struct Payment {
    customer: String,
    amount: Cents,
    standing: Standing,
    pub(crate) receipt: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Standing {
    #[default]
    Unknown,
    Requested,
    Authorised,
    Charged,
    Refunded,
    Voided,
}

impl Aggregate for Payment {
    type Event = PaymentEvent;

    fn apply(&mut self, event: &PaymentEvent) {
        self.standing = match event {
            PaymentEvent::Requested { customer, amount } => {
                (self.customer, self.amount) = (customer.clone(), *amount);
                Standing::Requested
            }
            PaymentEvent::Authorised { .. } => Standing::Authorised,
            PaymentEvent::Charged { receipt, .. } => {
                self.receipt = Some(receipt.clone());
                Standing::Charged
            }
            PaymentEvent::Refunded { .. } => Standing::Refunded,
            PaymentEvent::Voided => Standing::Voided,
        }
    }
}

/// Why a payment does not do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PaymentRefusal {
    #[error("nobody has asked for this payment")]
    NotRequested,
    #[error("it is paid already")]
    PaidAlready,
    #[error("it is too late to pay")]
    TooLate,
    #[error("nothing was charged")]
    NotCharged,
}

/// Asks the customer to pay.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Request {
    pub(crate) customer: String,
    pub(crate) amount: Cents,
}

impl Command<Payment> for Request {
    type Error = PaymentRefusal;

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentRefusal> {
        let Self { customer, amount } = self.clone();
        refuse_if(payment.standing != Standing::Unknown, PaymentRefusal::PaidAlready)?;
        Ok(vec![PaymentEvent::Requested { customer, amount }])
    }
}

/// The customer pays.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Authorise {
    pub(crate) card: String,
}

impl Command<Payment> for Authorise {
    type Error = PaymentRefusal;

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentRefusal> {
        match payment.standing {
            Standing::Unknown => Err(PaymentRefusal::NotRequested),
            Standing::Requested => Ok(vec![PaymentEvent::Authorised { card: self.card.clone() }]),
            Standing::Authorised | Standing::Charged => Err(PaymentRefusal::PaidAlready),
            Standing::Refunded | Standing::Voided => Err(PaymentRefusal::TooLate),
        }
    }
}

/// Notes that the provider has taken the money.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NoteCharge {
    pub(crate) receipt: String,
}

impl Command<Payment> for NoteCharge {
    type Error = PaymentRefusal;

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentRefusal> {
        match payment.standing {
            Standing::Unknown | Standing::Requested => Err(PaymentRefusal::NotRequested),
            Standing::Charged => Ok(vec![]),
            Standing::Refunded | Standing::Voided => Err(PaymentRefusal::TooLate),
            Standing::Authorised => Ok(vec![PaymentEvent::Charged {
                customer: payment.customer.clone(),
                amount: payment.amount,
                receipt: self.receipt.clone(),
            }]),
        }
    }
}

/// Notes that the provider has given the money back.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NoteRefund;

impl Command<Payment> for NoteRefund {
    type Error = PaymentRefusal;

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentRefusal> {
        match payment.standing {
            Standing::Charged => Ok(vec![PaymentEvent::Refunded {
                customer: payment.customer.clone(),
                amount: payment.amount,
            }]),
            Standing::Refunded => Ok(vec![]),
            _ => Err(PaymentRefusal::NotCharged),
        }
    }
}

/// Does not want the payment any more, whatever the customer says from now on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Void;

impl Command<Payment> for Void {
    type Error = PaymentRefusal;

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentRefusal> {
        match payment.standing {
            Standing::Requested | Standing::Authorised => Ok(vec![PaymentEvent::Voided]),
            Standing::Unknown | Standing::Refunded | Standing::Voided => Ok(vec![]),
            Standing::Charged => Err(PaymentRefusal::PaidAlready),
        }
    }
}

#[cfg(test)]
mod tests {
    use factum::testkit::given;

    use super::*;

    fn requested() -> PaymentEvent {
        PaymentEvent::Requested { customer: "ada".into(), amount: Cents(750) }
    }

    fn authorised() -> PaymentEvent {
        PaymentEvent::Authorised { card: "visa".into() }
    }

    fn charged() -> PaymentEvent {
        PaymentEvent::Charged { customer: "ada".into(), amount: Cents(750), receipt: "r1".into() }
    }

    fn refunded() -> PaymentEvent {
        PaymentEvent::Refunded { customer: "ada".into(), amount: Cents(750) }
    }

    #[test]
    fn a_customer_pays_once_and_in_time() {
        let pay = || Authorise { card: "visa".into() };
        given([requested()]).when(pay()).then([authorised()]);
        given([]).when(pay()).then_refused(PaymentRefusal::NotRequested);
        given([requested(), authorised()]).when(pay()).then_refused(PaymentRefusal::PaidAlready);
        given([requested(), authorised(), charged()]).when(pay()).then_refused(PaymentRefusal::PaidAlready);
        given([requested(), PaymentEvent::Voided]).when(pay()).then_refused(PaymentRefusal::TooLate);
    }

    #[test]
    fn money_is_noted_once_and_only_where_the_customer_agreed() {
        let note = || NoteCharge { receipt: "r1".into() };
        given([requested(), authorised()]).when(note()).then([charged()]);
        given([requested(), authorised(), charged()]).when(note()).then_nothing();
        given([requested()]).when(note()).then_refused(PaymentRefusal::NotRequested);
        given([requested(), authorised(), charged()]).when(NoteRefund).then([refunded()]);
        given([requested(), authorised(), charged(), refunded()]).when(NoteRefund).then_nothing();
        given([requested(), authorised()]).when(NoteRefund).then_refused(PaymentRefusal::NotCharged);
    }

    #[test]
    fn what_is_not_paid_can_be_voided() {
        given([requested()]).when(Void).then([PaymentEvent::Voided]);
        given([requested(), authorised()]).when(Void).then([PaymentEvent::Voided]);
        given([requested(), authorised(), charged()]).when(Void).then_refused(PaymentRefusal::PaidAlready);
        given([requested(), authorised(), charged(), refunded()]).when(Void).then_nothing();
    }
}
