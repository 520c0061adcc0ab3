//! A shop in PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod common;

use common::{Shop, server};

#[test]
fn orders_come_to_their_ends() {
    if server().is_some() {
        common::every_kind_of_order(&Shop::on_postgres());
    }
}

#[test]
fn a_demonstration_balances_with_faults_and_kills() {
    if server().is_some() {
        common::faults_and_kills(&Shop::on_postgres(), 60, 2);
    }
}

#[test]
fn a_shop_is_open_to_many_at_once() {
    if server().is_none() {
        return;
    }
    let shop = Shop::on_postgres();
    shop.says(&["receive", "mug=10", "--price", "2.50"]);
    let orders: Vec<_> = ["ada", "ben", "cleo"]
        .into_iter()
        .map(|customer| {
            let mut command = shop.command(&["order", customer, "mug=2"]);
            std::thread::spawn(move || command.output().unwrap())
        })
        .collect();
    for order in orders {
        let answer = common::Answer::from(order.join().unwrap());
        assert_eq!(answer.code, 0, "{answer:?}");
        assert!(answer.out.contains("completed"), "{answer:?}");
    }
    let told = shop.says(&["audit"]);
    assert!(told.contains("10 pieces received = 4 left + 0 reserved + 6 shipped"), "{told}");
}
