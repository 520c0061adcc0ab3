//! A shop on factum.

mod cart;
mod cents;
mod fulfilment;
mod order;
mod payment;
mod provider;
mod shipment;
mod stock;
mod views;

fn main() {}
