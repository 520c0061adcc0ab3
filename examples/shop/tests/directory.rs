//! A shop in a directory: its verbs, refusals, faults and kills.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod common;

use std::{
    io::Read,
    process::{Command, Stdio},
};

use common::{Answer, Shop, order_in};
use factum::{Append, EventStore, NewEvent};

#[test]
fn orders_come_to_their_ends() {
    common::every_kind_of_order(&Shop::new());
}

#[test]
fn a_demonstration_balances_with_faults_and_kills() {
    common::faults_and_kills(&Shop::new(), 150, 5);
}

#[test]
fn who_pays_too_late_is_told_so() {
    let shop = Shop::new();
    shop.says(&["receive", "mug=10", "--price", "2.50"]);
    let order = order_in(&shop.says(&["order", "ada", "mug", "--pay-later", "--pay-within", "1"]));
    // Who keeps the shop open is asked to close it.
    let mut open = shop.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    open.stderr.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
    Command::new("kill").arg(open.id().to_string()).status().unwrap();
    let closed = Answer::from(open.wait_with_output().unwrap());
    assert_eq!(closed.code, 0, "{closed:?}");
    assert!(closed.err.contains("closed, with nothing half done"), "{closed:?}");
    // The deadline passes, whoever looks.
    let looks = (0..200).map(|_| shop.says(&["orders"]));
    let told = looks.into_iter().find(|told| !told.contains("awaits payment"));
    assert!(told.is_some_and(|told| told.contains("cancelled: it was not paid in time")));
    shop.run(&["pay", &order]).fails(3, "it is too late to pay");
    assert!(shop.says(&["audit"]).ends_with("It balances.\n"));
}

#[test]
fn who_is_asked_to_end_drains_and_goes_on_later() {
    let shop = Shop::new();
    let mut demo = shop.command(&["demo", "--orders", "5000"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 12];
    demo.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    Command::new("kill").arg(demo.id().to_string()).status().unwrap();
    Answer::from(demo.wait_with_output().unwrap()).fails(130, "interrupted; orders that are open go on");
    let told = shop.says(&["demo", "--orders", "20", "--faults", "off"]);
    assert!(told.contains("It balances."), "{told}");
}

#[test]
fn a_command_line_that_makes_no_sense_makes_nothing() {
    let shop = Shop::new();
    for (arguments, words) in [
        (&["receive", "mug=0", "--price", "1"][..], "must say 1 to 1000 pieces"),
        (&["receive", "mug=1001", "--price", "1"], "must say 1 to 1000 pieces"),
        (&["receive", "mug=x"], "must say 1 to 1000 pieces"),
        (&["receive", "=3"], "invalid value"),
        (&["receive", "mug", "--price", "0"], "must be from 0.01 to 1000000.00"),
        (&["receive", "mug", "--price", "1,50"], "is not a price; write it like 12.50"),
        (&["order"], "required arguments"),
        (&["order", "ada", "mug", "--pay-later", "--card", "visa"], "cannot be used with"),
        (&["demo", "--orders", "0"], "0 is not in 1..=1000000"),
        (&["demo", "--faults", "all"], "possible values: off, some, many"),
        (&["demo", "--schema", "x"], "--schema goes with --store"),
        (&["demo", "--store", "postgres://a@b/c"], "cannot be used with"),
        (&["parked", "skip", "17"], "required arguments"),
        (&["fly"], "unrecognized subcommand"),
    ] {
        let answer = shop.run(arguments);
        assert_eq!(answer.code, 2, "{arguments:?}: {answer:?}");
        assert!(answer.err.contains(words), "{words:?} is not in {answer:?}");
    }
    for verb in [&["orders"][..], &["order", "ada", "mug"], &["audit"], &["parked"], &["parked", "retry"]] {
        shop.run(verb).fails(1, "there is no shop in");
    }
    assert!(!shop.data().exists());
    shop.run(&["receive", "mug"]).fails(3, "it has no price yet; say --price");
    shop.run(&["order", "ada"]).fails(3, "the cart is empty");
    shop.run(&["order", "ada", "mug"]).fails(3, "there is no such product");
    shop.run(&["parked", "skip", "17", "--why", "x"]).fails(3, "no event at position 17 is set aside");
}

#[test]
fn an_audit_finds_what_is_missing() {
    let shop = Shop::new();
    shop.says(&["receive", "mug=10", "--price", "2.50"]);
    shop.says(&["order", "ada", "mug=2"]);
    assert!(shop.says(&["audit"]).ends_with("It balances.\n"));
    // Somebody has taken three mugs on this order, somebody else its money, and the carrier came twice.
    let order = shop.says(&["orders"]).lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = factum_log::LogStore::open(shop.data().join("log")).unwrap();
        let taken = format!(r#"{{"order":"{order}","pieces":3}}"#);
        let taken = NewEvent::json_text("HandedOver", taken).unwrap();
        log.append(Append::to(factum::StreamName::new("stock-mug").unwrap(), [taken])).await.unwrap();
        let refunded =
            NewEvent::json_text("Refunded", r#"{"customer":"ada","amount":500}"#.to_owned()).unwrap();
        let payment = factum::StreamName::new(format!("payment-{order}")).unwrap();
        log.append(Append::to(payment, [refunded])).await.unwrap();
        let dispatched = NewEvent::json_text("Dispatched", r#"{"address":"Aarhus"}"#.to_owned()).unwrap();
        let shipment = factum::StreamName::new(format!("shipment-{order}")).unwrap();
        log.append(Append::to(shipment, [dispatched])).await.unwrap();
        log.close().await.unwrap();
    });
    let answer = shop.run(&["audit"]);
    answer.fails(1, "the ledger does not balance: 6 things are wrong");
    for words in [
        "has -3 pieces of mug reserved and 5 shipped, of 2",
        "was charged 5.00 and refunded 5.00",
        "the shop has 0.00 of its customers' money, and 5.00 is due",
        "was sent 2 times",
        "by the orders 8 left, 0 reserved and 2 shipped; by its events 8 left, -3 reserved and 5 shipped",
        "the provider has taken 5.00 and given back 0.00 for order",
    ] {
        assert!(answer.out.contains(words), "{words:?} is not in {answer:?}");
    }
}
