//! Whether the ledger is right: the read model against the log, and the log against what the bank itself recorded.

use std::collections::HashMap;

use factum::{
    Aggregate, AsOf, Error, Event, EventStoreExt, Position, Query, Read, Recorded, Token,
    projection::Difference,
};

use crate::{
    account::{Account, AccountEvent},
    exit::{Exit, Kind},
    kept::Kept,
    ledger::{Ledger, Place},
    money::Money,
    show::{by_id, count},
};

/// How often to look again, while others are at work.
const LOOKS: u32 = 5;

/// Compares the read model with two folds of the log: that of the projection, and that of the accounts themselves; and the log
/// with the balances that the bank recorded.
pub(crate) async fn verify(place: &Place, out: &mut String) -> Result<(), Exit> {
    let ledger = Ledger::open(place).await?;
    let balances = ledger.balances_now().await?;
    let mut compared = compare(&ledger, &balances).await?;
    // Rows that change with each append may be a moment ahead of what was read of the log: then others are at work.
    for _ in 0..LOOKS {
        if compared.differences.is_empty() || !balances.is_inline() || ledger.head().await? == compared.head {
            break;
        }
        compared = compare(&ledger, &balances).await?;
    }
    ledger.close().await?;
    let Compared { differences, audit, position, .. } = compared;
    for (account, difference) in &differences {
        *out += &format!("account {account}: {difference}\n");
    }
    *out += &audit.wrong.concat();
    if !differences.is_empty() {
        let (count, remedy) = (count(differences.len() as u64), "`bank rebuild` makes the read model again");
        let sentence = format!(
            "the read model differs from the log in {count} accounts; the log is the truth, and {remedy}"
        );
        return Err(Exit::new(Kind::Differs, sentence));
    }
    if !audit.wrong.is_empty() {
        let count = count(audit.wrong.len() as u64);
        let sentence = format!("the log does not reach {count} of the balances that the bank recorded");
        return Err(Exit::new(Kind::Differs, sentence));
    }
    let accounts = count(audit.accounts.len() as u64);
    *out += &format!(
        "the read model equals the fold of the log: {accounts} accounts, up to position {position}\n"
    );
    if audit.reached > 0 {
        *out += &format!(
            "the log reaches each of the {} balances that the bank recorded\n",
            count(audit.reached)
        );
    }
    Ok(())
}

/// What came of a comparison.
struct Compared {
    /// Sorted by account.
    differences: Vec<(String, String)>,
    audit: Audit,
    /// Up to where the log was compared.
    position: Position,
    /// The end of the log before.
    head: Token,
}

/// Compares all as of one moment, since others may go on working.
async fn compare(ledger: &Ledger, balances: &Kept) -> Result<Compared, Exit> {
    let head = ledger.head().await?;
    let mut differences: HashMap<_, _> = balances.verify().await?.into_iter().map(in_words).collect();
    let mut shown = balances.rows().await?;
    let (position, mut rows) = (shown.position(), HashMap::new());
    while let Some((id, row)) = shown.next().await? {
        rows.insert(id, row.balance);
    }
    let audit = Audit::of(ledger, position).await?;
    for (account, page) in &audit.accounts {
        let (kept, folded) = (rows.get(account), page.state.balance);
        if kept != Some(&folded) && !differences.contains_key(account) {
            let kept = kept.map_or("nothing".to_owned(), Money::to_string);
            let difference = format!("the read model has {kept}, the account holds {folded}");
            differences.insert(account.clone(), difference);
        }
    }
    let mut differences: Vec<_> = differences.into_iter().collect();
    differences.sort_by(|(a, _), (b, _)| by_id(a, b));
    Ok(Compared { differences, audit, position, head })
}

fn in_words(Difference { key, kept, by_the_log }: Difference) -> (String, String) {
    let text = |json: Option<String>| json.unwrap_or_else(|| "nothing".to_owned());
    (key, format!("the read model has {}, the log makes it {}", text(kept), text(by_the_log)))
}

/// The log up to a position, read once, account by account.
#[derive(Debug, Default)]
struct Audit {
    accounts: HashMap<String, Page>,
    /// Recorded balances that the log reaches, and lines about those that it does not.
    reached: u64,
    wrong: Vec<String>,
}

/// One account in an audit.
#[derive(Debug, Default)]
struct Page {
    state: Account,
    /// The last transaction and the balance that the bank recorded after it, until the next entry.
    pending: Option<(String, Money)>,
}

impl Audit {
    async fn of(ledger: &Ledger, position: Position) -> Result<Self, Exit> {
        let mut audit = Self::default();
        let read =
            Read::query(Query::category(AccountEvent::CATEGORY)).as_of(AsOf::Position(position)).limit(4096);
        let pages = ledger.factum.store().read_pages(read, |page| {
            for Recorded { event, record } in Recorded::<AccountEvent>::decode_all(page.events)? {
                audit.note(record.stream.id(), &event);
            }
            Ok::<_, Error>(())
        });
        pages.await?;
        audit.settle_all();
        Ok(audit)
    }

    fn note(&mut self, account: &str, event: &AccountEvent) {
        let rounds = |page: &Page| {
            let AccountEvent::BalanceRounded { transaction, .. } = event else { return false };
            page.pending.as_ref().is_some_and(|(pending, _)| pending == transaction)
        };
        if !self.accounts.get(account).is_some_and(rounds) {
            self.settle(account);
        }
        let page = self.accounts.entry(account.to_owned()).or_default();
        page.state.apply(event);
        if let Some(booking) = event.movement().and_then(|movement| movement.booking.as_ref()) {
            page.pending = Some((booking.transaction.clone(), booking.balance_after));
        }
    }

    fn settle_all(&mut self) {
        let accounts: Vec<_> = self.accounts.keys().cloned().collect();
        accounts.iter().for_each(|account| self.settle(account));
    }

    /// Everything about an account's last transaction has been read.
    fn settle(&mut self, account: &str) {
        let Some(page) = self.accounts.get_mut(account) else { return };
        let Some((transaction, recorded)) = page.pending.take() else { return };
        let held = page.state.balance;
        if held == recorded {
            self.reached += 1;
        } else {
            self.wrong.push(format!("account {account}: it held {held} after transaction {transaction}, and the bank recorded {recorded}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;

    use super::*;
    use crate::account::{Booking, Movement};

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    const DAY: Date = jiff::civil::date(1993, 1, 5);

    fn booked(transaction: &str, amount: &str, balance_after: &str) -> AccountEvent {
        let booking = Booking {
            transaction: transaction.into(),
            operation: "cash".into(),
            purpose: String::new(),
            balance_after: money(balance_after),
        };
        let amount = money(amount);
        AccountEvent::MoneyDeposited(Movement {
            date: DAY,
            amount,
            counterparty: None,
            booking: Some(booking),
        })
    }

    fn rounded(transaction: &str, amount: &str) -> AccountEvent {
        AccountEvent::BalanceRounded { date: DAY, amount: money(amount), transaction: transaction.into() }
    }

    fn audit<'a>(events: impl IntoIterator<Item = (&'a str, AccountEvent)>) -> (u64, Vec<String>) {
        let mut audit = Audit::default();
        events.into_iter().for_each(|(account, event)| audit.note(account, &event));
        audit.settle_all();
        (audit.reached, audit.wrong)
    }

    #[test]
    fn a_recorded_balance_is_reached_with_its_rounding() {
        let events = [
            ("17", booked("1", "5", "5")),
            ("19", booked("2", "5", "5")),
            ("17", booked("3", "5", "10.05")),
            ("17", rounded("3", "0.05")),
            ("17", booked("4", "1", "11.05")),
        ];
        assert_eq!(audit(events), (4, vec![]));
    }

    #[test]
    fn half_a_row_and_a_wrong_sum_are_found() {
        let half = [("17", booked("3", "5", "5.05")), ("17", booked("4", "1", "6"))];
        let told = "account 17: it held 5.00 after transaction 3, and the bank recorded 5.05\n".to_owned();
        assert_eq!(audit(half), (1, vec![told]));
        let of_another = [("17", booked("3", "5", "5.05")), ("17", rounded("2", "0.05"))];
        assert_eq!(audit(of_another).1.len(), 1);
        assert_eq!(audit([("17", booked("9", "5", "6"))]).1.len(), 1);
    }
}
