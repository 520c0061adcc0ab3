//! Shipments: one for each order, which is its id.

use factum::prelude::*;

/// Where no carrier goes.
pub(crate) const NOWHERE: &str = "Atlantis";

/// What happened to the shipment of an order.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(category = "shipment")]
pub(crate) enum ShipmentEvent {
    /// The carrier takes it.
    Dispatched { address: String },
}

/// The shipment of an order.
#[derive(Debug, Default)]
pub(crate) struct Shipment {
    dispatched: bool,
}

impl Aggregate for Shipment {
    type Event = ShipmentEvent;

    fn apply(&mut self, event: &ShipmentEvent) {
        match event {
            ShipmentEvent::Dispatched { .. } => self.dispatched = true,
        }
    }
}

/// Why nothing is shipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no carrier goes to {0}")]
pub(crate) struct NoRoute(String);

/// Has the carrier come.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Dispatch {
    pub(crate) address: String,
}

impl Command<Shipment> for Dispatch {
    type Error = NoRoute;

    fn decide(&self, shipment: &Shipment) -> Result<Vec<ShipmentEvent>, NoRoute> {
        let address = self.address.clone();
        refuse_if(address == NOWHERE, NoRoute(address.clone()))?;
        Ok(if shipment.dispatched { vec![] } else { vec![ShipmentEvent::Dispatched { address }] })
    }
}

#[cfg(test)]
mod tests {
    use factum::testkit::given;

    use super::*;

    #[test]
    fn what_can_be_reached_is_shipped_once() {
        let to = |address: &str| Dispatch { address: address.into() };
        let dispatched = || ShipmentEvent::Dispatched { address: "Aarhus".into() };
        given([]).when(to("Aarhus")).then([dispatched()]);
        given([dispatched()]).when(to("Aarhus")).then_nothing();
        given([]).when(to(NOWHERE)).then_refused(NoRoute(NOWHERE.into()));
    }
}
