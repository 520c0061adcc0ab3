//! The ledger as a whole, within one process: what a program that goes on running would do.

use std::{collections::BTreeMap, env, path::Path, path::PathBuf};

use factum::{Aggregate, EventStoreExt, Factum, Failure, Read};
use jiff::civil::Date;

use crate::{
    account::{Account, Deposit, Open, Transfer, TransferRefusal},
    import::{self, OnError},
    kept::Kept,
    ledger::{Ledger, Place},
    money::Money,
    source::{Source, TransactionRow},
};

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

fn day() -> Date {
    "1994-01-05".parse().unwrap()
}

/// Who moves money around among accounts of their own, until told that it is enough.
async fn work(factum: Factum, who: usize, enough: tokio::sync::watch::Receiver<bool>) -> usize {
    let names: Vec<_> = (0..4).map(|n| format!("worker-{who}-{n}")).collect();
    for name in &names {
        factum.execute(&Account::id(name), Open { date: day(), deposit: Some(money("100")) }).await.unwrap();
    }
    let mut done = 0;
    while !*enough.borrow() {
        let (from, to) = (&names[done % 4], &names[(done / 4 + done + 1) % 4]);
        let transfer = Transfer { date: day(), from: from.clone(), to: to.clone(), amount: money("7.01") };
        match factum.decide(transfer).await {
            Ok(_) => {}
            Err(Failure::Refused(TransferRefusal::SameAccount(_) | TransferRefusal::Account { .. })) => {}
            Err(other) => panic!("{other}"),
        }
        done += 1;
        tokio::task::yield_now().await;
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_read_model_is_rebuilt_while_commands_run() {
    let directory = tempfile::tempdir().unwrap();
    let expected = import_real_year(directory.path()).await;
    let ledger = Ledger::open_or_begin(&Place::Directory(directory.path().to_owned())).await.unwrap();
    let balances = ledger.in_background().await.unwrap();
    let mut kept = Kept::Background(balances.clone());
    ledger.catch_up(&mut kept, ledger.head().await.unwrap()).await.unwrap();
    let (tell, enough) = tokio::sync::watch::channel(false);
    let workers: Vec<_> =
        (0..4).map(|who| tokio::spawn(work(ledger.factum.clone(), who, enough.clone()))).collect();

    // Somebody who reads all the time must never see the read model go back.
    let (reads, watched) = (balances.clone(), enough.clone());
    let reader = tokio::spawn(async move {
        let (mut seen, mut looks) = (0, 0);
        while !*watched.borrow() {
            let entries = reads.get("worker-0-0").await.unwrap().map_or(0, |row| row.entries);
            assert!(entries >= seen, "it showed {seen} entries, and then {entries}");
            (seen, looks) = (entries, looks + 1);
            tokio::task::yield_now().await;
        }
        looks
    });
    for _ in 0..3 {
        balances.rebuild().await.unwrap();
    }
    tell.send(true).unwrap();
    let mut commands = 0;
    for worker in workers {
        commands += worker.await.unwrap();
    }
    let looks = reader.await.unwrap();
    println!("{commands} commands and {looks} looks during three rebuilds");
    assert!(commands > 0 && looks > 0);

    ledger.catch_up(&mut kept, ledger.head().await.unwrap()).await.unwrap();
    assert_eq!(balances.verify().await.unwrap(), []);
    let rows: BTreeMap<_, _> =
        balances.all().await.unwrap().into_iter().map(|(id, row)| (id, row.balance)).collect();
    let workers = rows.iter().filter(|(id, _)| id.starts_with("worker-"));
    assert_eq!(
        workers.map(|(_, balance)| *balance).sum::<Money>(),
        money("1600"),
        "transfers move money, they make none"
    );
    for (account, balance) in expected {
        assert_eq!(rows.get(&account), Some(&balance), "account {account}");
    }
}

/// Imports the real year, where it is, and gives the bank's last balances.
async fn import_real_year(ledger: &Path) -> BTreeMap<String, Money> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/bank");
    let data = env::var_os("FACTUM_DATA").map_or(beside, PathBuf::from);
    let request = import::Request {
        accounts: data.join("accounts-1993.csv"),
        transactions: data.join("transactions-1993.csv"),
        on_error: OnError::Stop,
        tolerance: money("0.10"),
        way: None,
    };
    if !request.transactions.exists() {
        println!("skipped: no {}, so nothing but made-up accounts", request.transactions.display());
        return BTreeMap::new();
    }
    import::import(&request, &Place::Directory(ledger.to_owned()), &mut String::new()).await.unwrap();
    let mut source = Source::<TransactionRow>::open(&request.transactions).unwrap();
    let rows = std::iter::from_fn(|| source.next().unwrap()).map(|row| row.content.unwrap());
    rows.map(|row| (row.account, row.balance_after)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_at_once_cannot_spend_the_same_money() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open_or_begin(&Place::Directory(directory.path().to_owned())).await.unwrap();
    for (account, deposit) in [("pot", Some(money("100"))), ("a", None), ("b", None)] {
        ledger.factum.execute(&Account::id(account), Open { date: day(), deposit }).await.unwrap();
    }
    let takers = (0..40).map(|n| {
        let (factum, to) = (ledger.factum.clone(), ["a", "b"][n % 2].to_owned());
        tokio::spawn(async move {
            let transfer = Transfer { date: day(), from: "pot".into(), to, amount: money("10") };
            factum.decide(transfer).await.is_ok()
        })
    });
    let mut taken = 0;
    for taker in takers.collect::<Vec<_>>() {
        taken += usize::from(taker.await.unwrap());
    }
    assert_eq!(taken, 10);
    let pot = ledger.factum.load(&Account::id("pot")).await.unwrap();
    assert_eq!(pot.state.balance, Money::ZERO);
    let events = ledger.factum.store().read_to_end(Read::all()).await.unwrap();
    assert_eq!(events.len(), 4 + 2 * taken, "each transfer is two events, and no half of one is left");
}

#[tokio::test]
async fn a_deposit_is_read_back_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open_or_begin(&Place::Directory(directory.path().to_owned())).await.unwrap();
    let balances = ledger.in_background().await.unwrap();
    let id = Account::id("17");
    ledger.factum.execute(&id, Open { date: day(), deposit: None }).await.unwrap();
    for cents in 1..=20 {
        let done = ledger.factum.execute(&id, Deposit { date: day(), amount: money("0.01") }).await.unwrap();
        balances.wait_for(&done).await.unwrap();
        assert_eq!(balances.get("17").await.unwrap().unwrap().balance, money(&format!("0.{cents:02}")));
    }
}
