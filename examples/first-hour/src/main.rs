use factum::prelude::*;

#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
enum AccountEvent {
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}
#[derive(Debug, Default, Serialize, Deserialize)]
struct Account(u64);
impl Aggregate for Account {
    type Event = AccountEvent;
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited { cents } => self.0 += cents,
            AccountEvent::Withdrawn { cents } => self.0 -= cents,
        }
    }
}

enum Teller {
    Deposit(u64),
    Withdraw(u64),
}
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("insufficient funds")]
struct InsufficientFunds;
impl Command<Account> for Teller {
    type Error = InsufficientFunds;
    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, InsufficientFunds> {
        match *self {
            Teller::Withdraw(cents) if cents > account.0 => Err(InsufficientFunds),
            Teller::Withdraw(cents) => Ok(vec![AccountEvent::Withdrawn { cents }]),
            Teller::Deposit(cents) => Ok(vec![AccountEvent::Deposited { cents }]),
        }
    }
}
struct Balances; // a read model: one row per account
impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = AccountEvent;
    type Row = Account;
    fn evolve(&self, mut row: Option<Account>, event: &Recorded<AccountEvent>) -> Option<Account> {
        row.get_or_insert_default().apply(&event.event);
        row
    }
}
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let factum = Factum::new(factum_log::LogStore::open("data")?);
    let balances = factum.project(Balances, factum_sqlite::Sqlite::open("read.db")?).await?;
    let id = Account::id("17");
    factum.execute(&id, Teller::Deposit(100)).await?;
    let done = factum.execute(&id, Teller::Withdraw(30)).await?;
    balances.wait_for(&done).await?; // read your own write
    println!("now {:?}, was {:?}", balances.get("17").await?, factum.load_at(&id, Revision(0)).await?.state);
    Ok(())
}
