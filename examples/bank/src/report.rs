//! What can be asked of a ledger.

use std::fmt::Write as _;

use factum::{Aggregate, Recorded, Revision, State};
use jiff::civil::Date;

use crate::{
    account::{Account, AccountEvent, Movement},
    exit::{Exit, Kind},
    kept::{Kept, Way},
    ledger::{Ledger, Place},
    show::{Align, Column, Format, by_id, count, print},
};

/// A moment in an account's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    /// The end of this day, by the entries' own dates.
    Day(Date),
    /// After the event with this revision.
    Revision(Revision),
}

/// The balances of all accounts, from the read model.
pub(crate) async fn balances(place: &Place, format: Format, out: &mut String) -> Result<(), Exit> {
    let ledger = Ledger::open(place).await?;
    let mut rows = ledger.balances_now().await?.all().await?;
    ledger.close().await?;
    rows.sort_by(|(a, _), (b, _)| by_id(a, b));
    let rows: Vec<_> =
        rows.into_iter().map(|(account, row)| vec![account, row.balance.to_string()]).collect();
    print(out, format, &[Column("account_id", Align::Left), Column("balance", Align::Right)], &rows);
    Ok(())
}

/// The balance of one account, with when the last entry that counts was recorded.
pub(crate) async fn balance(
    place: &Place,
    account: &str,
    when: When,
    format: Format,
    out: &mut String,
) -> Result<(), Exit> {
    let history = history_of(place, account).await?;
    let seen = seen_at(&history, account, when)?;
    let state = Account::fold(seen.iter().map(|recorded| &recorded.event));
    // `seen_at` gives at least the opening.
    let last = seen.iter().max_by_key(|recorded| (recorded.event.date(), recorded.record.revision));
    let recorded = last.map(|last| {
        vec![
            account.to_owned(),
            state.balance.to_string(),
            last.event.date().to_string(),
            last.record.revision.to_string(),
            last.record.recorded_at.to_string(),
        ]
    });
    let columns = [
        Column("account_id", Align::Left),
        Column("balance", Align::Right),
        Column("last_entry_on", Align::Left),
        Column("revision", Align::Right),
        Column("recorded_at", Align::Left),
    ];
    print(out, format, &columns, &recorded.into_iter().collect::<Vec<_>>());
    Ok(())
}

/// All that happened to one account.
pub(crate) async fn history(
    place: &Place,
    account: &str,
    format: Format,
    out: &mut String,
) -> Result<(), Exit> {
    let history = history_of(place, account).await?;
    let mut state = Account::default();
    let rows: Vec<_> = history
        .iter()
        .map(|Recorded { event, record }| {
            state.apply(event);
            let change = if matches!(event, AccountEvent::AccountOpened { .. }) {
                String::new()
            } else {
                event.change().to_string()
            };
            vec![
                record.revision.to_string(),
                event.date().to_string(),
                record.recorded_at.to_string(),
                told(event),
                change,
                state.balance.to_string(),
                event.transaction().unwrap_or_default().to_owned(),
                record.metadata.actor().unwrap_or_default(),
                record.metadata.correlation_id().unwrap_or_default(),
            ]
        })
        .collect();
    let columns = [
        Column("revision", Align::Right),
        Column("date", Align::Left),
        Column("recorded_at", Align::Left),
        Column("what", Align::Left),
        Column("amount", Align::Right),
        Column("balance", Align::Right),
        Column("transaction", Align::Left),
        Column("by", Align::Left),
        Column("correlation", Align::Left),
    ];
    print(out, format, &columns, &rows);
    Ok(())
}

async fn history_of(place: &Place, account: &str) -> Result<Vec<Recorded<AccountEvent>>, Exit> {
    let ledger = Ledger::open(place).await?;
    let history = ledger.factum.history(&Account::id(account)).await?;
    ledger.close().await?;
    if history.is_empty() {
        return Err(Exit::new(Kind::NotFound, format!("there is no account {account} in this ledger")));
    }
    Ok(history)
}

/// The part of a history that counts at a moment: never empty.
fn seen_at<'a>(
    history: &'a [Recorded<AccountEvent>],
    account: &str,
    when: When,
) -> Result<Vec<&'a Recorded<AccountEvent>>, Exit> {
    let none = |sentence: String| Err(Exit::new(Kind::NotFound, sentence));
    match when {
        When::Now => Ok(history.iter().collect()),
        When::Revision(at) => {
            let last = history.last().map_or(Revision::FIRST, |last| last.record.revision);
            if at > last {
                return none(format!("account {account} has no revision {at}: its last is {last}"));
            }
            Ok(history.iter().filter(|recorded| recorded.record.revision <= at).collect())
        }
        When::Day(day) => {
            let known = |event: &AccountEvent| {
                match event {
                AccountEvent::AccountOpened { date, .. } => {
                    (*date > day).then(|| format!("account {account} was opened on {date}, after {day}"))
                }
                AccountEvent::BalanceBroughtForward { date, .. } => (*date > day).then(|| {
                    format!("the records of account {account} begin on {date} with a balance brought forward; what it held on {day} is not recorded")
                }),
                _ => None,
            }
            };
            match history.iter().find_map(|recorded| known(&recorded.event)) {
                Some(sentence) => none(sentence),
                None => Ok(history.iter().filter(|recorded| recorded.event.date() <= day).collect()),
            }
        }
    }
}

/// An event in a person's words.
pub(crate) fn told(event: &AccountEvent) -> String {
    let moved = |what: &str, side: &str, movement: &Movement| {
        let mut text = movement.booking.as_ref().map_or(what, |booking| &booking.operation).to_owned();
        if let Some(purpose) = movement
            .booking
            .as_ref()
            .map(|booking| &booking.purpose)
            .filter(|purpose| !purpose.is_empty() && **purpose != text)
        {
            let _ = write!(text, ", {purpose}");
        }
        if let Some(other) = &movement.counterparty {
            let _ = write!(text, " {side} {}", other.account);
            if let Some(bank) = &other.bank {
                let _ = write!(text, " at {bank}");
            }
        }
        text
    };
    match event {
        AccountEvent::AccountOpened { .. } => "opened".to_owned(),
        AccountEvent::BalanceBroughtForward { .. } => "balance brought forward".to_owned(),
        AccountEvent::MoneyDeposited(movement) => moved("deposit", "from", movement),
        AccountEvent::MoneyWithdrawn(movement) => moved("withdrawal", "to", movement),
        AccountEvent::TransferSent(movement) => moved("transfer", "to", movement),
        AccountEvent::TransferReceived(movement) => moved("transfer", "from", movement),
        AccountEvent::BalanceRounded { .. } => "rounded by the bank".to_owned(),
    }
}

/// Makes the read model again, and has it kept in another way from then on, if that is asked for.
pub(crate) async fn rebuild(place: &Place, way: Option<Way>, out: &mut String) -> Result<(), Exit> {
    place.check(way)?;
    let ledger = Ledger::open(place).await?;
    let mut balances = ledger.rebuild().await?;
    if let Some(way) = way {
        ledger.keep(way).await?;
        balances = ledger.balances_now().await?;
    }
    let mut rows = balances.rows().await?;
    let (position, mut accounts) = (rows.position(), 0);
    while rows.next().await?.is_some() {
        accounts += 1;
    }
    ledger.close().await?;
    let accounts = count(accounts);
    *out += &format!("the read model is made again: {accounts} accounts, up to position {position}\n");
    Ok(())
}

/// How far the log and the read model are.
pub(crate) async fn status(place: &Place, out: &mut String) -> Result<(), Exit> {
    let ledger = Ledger::open(place).await?;
    let head = ledger.factum.store().head().await?;
    let balances = match ledger.balances().await? {
        Kept::Inline(_) => {
            format!("position {}, with each append in its own transaction", head.token.position)
        }
        Kept::Background(balances) => {
            let status = balances.status().await?;
            let state = match &status.state {
                State::Stopped(reason) => format!(", stopped: {reason}"),
                _ => String::new(),
            };
            format!("position {}, {} events behind{state}", status.position, count(status.lag_events))
        }
    };
    ledger.close().await?;
    let recorded = head.recorded_at.map_or(String::new(), |at| format!(", last recorded {at}"));
    *out += &format!("log         position {}{recorded}\n", head.token.position);
    *out += &format!("read model  {balances}\n");
    Ok(())
}
