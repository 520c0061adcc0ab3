//! The demonstration: a small bank in memory, from the first deposit to the question who did it.

use std::{fmt, sync::Arc, time::Duration};

use factum::{
    Aggregate, Command, Done, EventStoreExt, Factum, Failure, Limits, ManualClock, MemoryStore, Read,
    Recorded, Revision, Timestamp,
};
use factum_sqlite::Sqlite;
use jiff::civil::Date;

use crate::{
    account::{Account, AccountEvent, Deposit, Open, Refusal, Transfer, Withdraw},
    balances::Balances,
    exit::{Exit, Kind},
    ledger::today,
    money::{Money, NotMoney},
    report::told,
    show::{Align, Column, Format, print},
};

/// When the demonstration takes place: a Monday morning. Each day of it is one step of the clock.
const MONDAY: &str = "2026-01-05T09:00:00Z";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Shows it all.
pub(crate) async fn demo(out: &mut String) -> Result<(), Exit> {
    let clock = Arc::new(ManualClock::at(MONDAY.parse()?));
    let store = MemoryStore::with(Limits::default(), clock.clone());
    let factum = Factum::new(store);
    let balances = factum.project(Balances, Sqlite::memory()?).await?;
    let mut bank = Demo { factum, clock, out };

    bank.commands().await?;
    let tuesday = bank.refusals().await?;
    let done = bank.transfer().await?;

    bank.heading("The events: the truth, in the order in which it happened");
    bank.events().await?;

    bank.heading("The read model, in SQLite: it has seen the last command, for we waited for that");
    balances.wait_for(&done).await?;
    let rows = balances.all().await?.into_iter();
    let rows: Vec<_> = rows.map(|(account, row)| vec![account, row.balance.to_string()]).collect();
    let columns = [Column("account_id", Align::Left), Column("balance", Align::Right)];
    print(bank.out, Format::Table, &columns, &rows);

    bank.heading("Time travel: es-acc-002 as it was");
    bank.earlier(tuesday).await?;

    bank.heading("Who caused what");
    bank.causes().await?;

    bank.heading("The read model compared with a fold of the log");
    let differences = balances.verify().await?.len();
    bank.line(&format!("{differences} differences"));
    bank.line("\nThe same on a disk: bank open es-acc-001 100 --data DIR, and bank --help");
    Ok(())
}

/// The demonstration under way.
struct Demo<'a> {
    factum: Factum,
    clock: Arc<ManualClock>,
    out: &'a mut String,
}

impl Demo<'_> {
    fn heading(&mut self, text: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        *self.out += &format!("{text}\n");
    }

    fn line(&mut self, text: &str) {
        *self.out += &format!("{text}\n");
    }

    fn today(&self) -> Date {
        today(&*self.clock)
    }

    fn next_day(&self) -> Date {
        self.clock.advance(DAY);
        self.today()
    }

    /// Somebody asks something of an account; the answer is printed, be it a balance or a refusal.
    async fn asks<C>(&mut self, who: &str, account: &str, what: &str, command: C) -> Result<(), Exit>
    where
        C: Command<Account, Error = Refusal>,
    {
        let id = Account::id(account);
        let answer = match self.factum.acting_as(who).execute(&id, command).await {
            Ok(_) => format!("it holds {}", self.factum.load(&id).await?.state.balance),
            Err(Failure::Refused(refusal)) => format!("refused: {refusal}"),
            Err(Failure::Store(error)) => return Err(error.into()),
        };
        self.line(&format!("{account}: {what:<17} {answer}"));
        Ok(())
    }

    async fn commands(&mut self) -> Result<(), Exit> {
        self.heading("Monday: open with 100, deposit 50, withdraw 30");
        let date = self.today();
        let open = Open { date, deposit: Some(money("100")?) };
        self.asks("ada", "es-acc-001", "open with 100.00", open).await?;
        self.asks("ada", "es-acc-001", "deposit 50.00", Deposit { date, amount: money("50")? }).await?;
        self.asks("ada", "es-acc-001", "withdraw 30.00", Withdraw { date, amount: money("30")? }).await
    }

    /// The second scenario, and what the rules refuse after it. Gives the day.
    async fn refusals(&mut self) -> Result<Date, Exit> {
        self.heading("Tuesday: open with 500, deposit 100, withdraw 50; then what the rules refuse");
        let date = self.next_day();
        let open = Open { date, deposit: Some(money("500")?) };
        self.asks("ben", "es-acc-002", "open with 500.00", open).await?;
        self.asks("ben", "es-acc-002", "deposit 100.00", Deposit { date, amount: money("100")? }).await?;
        self.asks("ben", "es-acc-002", "withdraw 50.00", Withdraw { date, amount: money("50")? }).await?;
        let before = self.factum.store().head().await?.token;
        self.asks("ben", "es-acc-002", "withdraw 1000.00", Withdraw { date, amount: money("1000")? }).await?;
        self.asks("ben", "es-acc-002", "open again", Open { date, deposit: None }).await?;
        self.asks("ben", "es-acc-002", "deposit 0.00", Deposit { date, amount: Money::ZERO }).await?;
        self.asks("ben", "es-acc-002", "withdraw -5.00", Withdraw { date, amount: money("-5")? }).await?;
        self.asks("ben", "es-acc-003", "deposit 1.00", Deposit { date, amount: money("1")? }).await?;
        let recorded = self.factum.store().read_to_end(Read::all().beyond(before)).await?.len();
        self.line(&format!("events recorded by the five refusals: {recorded}"));
        Ok(date)
    }

    /// A decision over two accounts, and what another party does because of it.
    async fn transfer(&mut self) -> Result<Done, Exit> {
        self.heading("Wednesday: a transfer is one decision over two accounts, and one append");
        let (date, amount) = (self.next_day(), money("200")?);
        let transfer = Transfer { date, from: "es-acc-002".into(), to: "es-acc-001".into(), amount };
        let ben = self.factum.acting_as("ben").correlated("rent-january");
        let done = ben.decide(transfer).await.map_err(unexpected)?;
        let events = done.events.len();
        self.line(&format!(
            "ben transfers 200.00 from es-acc-002 to es-acc-001: {events} events, nothing between them"
        ));

        let sent = self.factum.history(&Account::id("es-acc-002")).await?.pop();
        let sent = sent.ok_or_else(|| unexpected("a transfer left no event"))?;
        let loyalty = self.factum.acting_as("loyalty").caused_by(&sent.record);
        let thanks = Deposit { date, amount: money("1")? };
        let done = loyalty.execute(&Account::id("es-acc-002"), thanks).await.map_err(unexpected)?;
        self.line("the loyalty programme thanks es-acc-002 for it with 1.00");
        Ok(done)
    }

    async fn all(&self) -> Result<Vec<Recorded<AccountEvent>>, Exit> {
        let records = self.factum.store().read_to_end(Read::all()).await?;
        Ok(Recorded::decode_all(records)?)
    }

    async fn events(&mut self) -> Result<(), Exit> {
        let row = |Recorded { record, .. }: Recorded<AccountEvent>| {
            let data = String::from_utf8_lossy(&record.data).into_owned();
            vec![
                record.position.to_string(),
                record.stream.to_string(),
                record.revision.to_string(),
                record.event_type.to_string(),
                data,
            ]
        };
        let rows: Vec<_> = self.all().await?.into_iter().map(row).collect();
        let columns = [
            Column("position", Align::Right),
            Column("stream", Align::Left),
            Column("revision", Align::Right),
            Column("type", Align::Left),
            Column("data", Align::Left),
        ];
        print(self.out, Format::Table, &columns, &rows);
        Ok(())
    }

    async fn earlier(&mut self, tuesday: Date) -> Result<(), Exit> {
        let id = Account::id("es-acc-002");
        let history = self.factum.history(&id).await?;
        let by_day = history.iter().map(|recorded| &recorded.event).filter(|event| event.date() <= tuesday);
        let by_day = Account::fold(by_day).balance;
        let by_revision = self.factum.load_at(&id, Revision(1)).await?.state.balance;
        let noon: Timestamp = "2026-01-06T12:00:00Z".parse()?;
        let by_time = self.factum.load_at(&id, noon).await?.state.balance;
        let now = self.factum.load(&id).await?.state.balance;
        let rows = [
            (format!("at the end of {tuesday}, by the entries' own dates"), by_day),
            (format!("as recorded by {noon}"), by_time),
            ("after revision 1".to_owned(), by_revision),
            ("now".to_owned(), now),
        ];
        let rows = rows.map(|(when, balance)| vec![when, balance.to_string()]);
        print(
            self.out,
            Format::Table,
            &[Column("when", Align::Left), Column("balance", Align::Right)],
            &rows,
        );
        Ok(())
    }

    async fn causes(&mut self) -> Result<(), Exit> {
        let all = self.all().await?;
        let place = |id: &str| {
            all.iter()
                .find(|recorded| recorded.record.id.to_string() == id)
                .map(|r| r.record.position.to_string())
        };
        let row = |Recorded { event, record }: &Recorded<AccountEvent>| {
            let caused_by =
                record.metadata.causation_id().and_then(|id| place(&id)).map(|at| format!("position {at}"));
            let flow = record.metadata.correlation_id().unwrap_or_default();
            vec![
                record.position.to_string(),
                record.recorded_at.to_string(),
                told(event),
                record.metadata.actor().unwrap_or_default(),
                flow,
                caused_by.unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = all.iter().rev().take(3).rev().map(row).collect();
        let columns = [
            Column("position", Align::Right),
            Column("recorded_at", Align::Left),
            Column("what", Align::Left),
            Column("by", Align::Left),
            Column("correlation", Align::Left),
            Column("caused_by", Align::Left),
        ];
        print(self.out, Format::Table, &columns, &rows);
        Ok(())
    }
}

fn money(text: &str) -> Result<Money, Exit> {
    text.parse().map_err(|error: NotMoney| unexpected(error))
}

fn unexpected(error: impl fmt::Display) -> Exit {
    Exit::new(Kind::Other, format!("the demonstration went wrong: {error}"))
}
