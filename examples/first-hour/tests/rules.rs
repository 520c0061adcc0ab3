//! The rules of the README's example, in the three words that test everything.

include!("../src/main.rs");

#[test]
fn nobody_withdraws_more_than_there_is() {
    use factum::testkit::given;
    given([AccountEvent::Deposited { cents: 100 }])
        .when(Teller::Withdraw(101))
        .then_refused(InsufficientFunds);
}
