//! The buses: who answers what, what the layers let pass, and what they leave behind.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use factum::{
    Error, MemoryReads, MemoryStore,
    bus::{
        self, Anyone, Authorisation, Authorise, Call, Checks, CommandBus, Forbidden, Idempotency, Layer,
        Principal, QueryBus, Rejected, Rest, Validate, Validation, allow_if,
    },
    prelude::*,
};
use tracing::span;

use crate::support::*;

#[derive(Debug, PartialEq)]
struct Customer {
    name: &'static str,
    accounts: &'static [&'static str],
}

impl Principal for Customer {
    fn actor(&self) -> String {
        self.name.into()
    }
}

const ADA: Customer = Customer { name: "ada", accounts: &["1", "2"] };

#[derive(Serialize)]
struct Pay {
    cents: i64,
}

impl Command<Account> for Pay {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        Withdraw { cents: self.cents }.decide(account)
    }
}

impl Validate for Pay {
    fn validate(&self, check: &mut Checks) {
        check.that(self.cents > 0, "cents", "pay at least one cent").that(
            self.cents % 5 == 0,
            "cents",
            "pay whole coins",
        );
    }
}

impl Authorise<Customer> for Pay {
    fn authorise(&self, customer: &Customer, account: &str) -> Result<(), Forbidden> {
        allow_if(customer.accounts.contains(&account), "only the owner pays")
    }
}

impl Authorise<Customer> for Transfer {
    fn authorise(&self, customer: &Customer, target: &str) -> Result<(), Forbidden> {
        assert_eq!(target, "", "a decision says itself what it is about");
        allow_if(customer.accounts.contains(&self.from.as_str()), "only the owner pays")
    }
}

struct BalanceOf(&'static str);

impl bus::Query<Projected<Balances>> for BalanceOf {
    type Result = Option<i64>;

    async fn answer(&self, balances: &Projected<Balances>) -> factum::Result<Option<i64>> {
        balances.get(self.0).await
    }
}

impl Authorise<Customer> for BalanceOf {
    fn authorise(&self, customer: &Customer, _: &str) -> Result<(), Forbidden> {
        allow_if(customer.accounts.contains(&self.0), "not your account")
    }
}

struct Total;

impl bus::Query<Projected<Balances>> for Total {
    type Result = i64;

    async fn answer(&self, balances: &Projected<Balances>) -> factum::Result<i64> {
        Ok(balances.all().await?.into_iter().map(|(_, cents)| cents).sum())
    }
}

/// Whatever the bank is: anybody may ask.
#[derive(Clone)]
struct NameOfTheBank;

impl Authorise<Anyone> for NameOfTheBank {
    fn authorise(&self, _: &Anyone, _: &str) -> Result<(), Forbidden> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_reaction_sends_is_in_the_flow_of_what_it_saw() {
    let factum = bank().await;
    let commands = CommandBus::new(factum.clone());
    let opened = factum.history(&Account::id("1")).await.unwrap().remove(0).record;
    let reaction = commands.within(|factum| factum.caused_by(&opened));
    for repeated in [false, true] {
        let done = reaction.identified(opened.id).execute(&Account::id("2"), Pay { cents: 5 }).await.unwrap();
        assert_eq!((done.repeated, Some(done.correlation_id)), (repeated, opened.metadata.correlation_id()));
    }
    let paid = factum.history(&Account::id("2")).await.unwrap().remove(1).record;
    assert_eq!(paid.metadata.causation_id(), Some(opened.id.to_string()));
}

/// Notes what passes it, on the way in and out.
#[derive(Clone, Default)]
struct Notes {
    name: &'static str,
    seen: Arc<Mutex<Vec<String>>>,
}

impl<M: Sync, P: Sync> Layer<M, P> for Notes {
    async fn around<T: Send, E: std::error::Error + Send>(
        &self,
        call: Call<'_, M, P>,
        rest: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        self.seen.lock().unwrap().push(format!("{} > {}", self.name, call.name()));
        let answer = rest.await;
        let outcome = answer.as_ref().map_or_else(ToString::to_string, |_| "done".into());
        self.seen.lock().unwrap().push(format!("{} < {outcome}", self.name));
        answer
    }
}

/// Stops everything, for a reason of its own.
struct Closed;

impl<M: Sync, P: Sync> Layer<M, P> for Closed {
    async fn around<T: Send, E: std::error::Error + Send>(
        &self,
        call: Call<'_, M, P>,
        _: impl Rest<T, E>,
    ) -> Result<T, Rejected<E>> {
        Err(Rejected::Stopped(format!("no {:?} on Sundays", call.kind).into()))
    }
}

async fn bank() -> Factum {
    let factum = Factum::new(MemoryStore::new());
    for id in ["1", "2", "3"] {
        factum.execute(&Account::id(id), Open { cents: 100 }).await.unwrap();
    }
    factum
}

async fn money(factum: &Factum, id: &str) -> i64 {
    factum.load(&Account::id(id)).await.unwrap().state.cents
}

#[tokio::test]
async fn a_bus_without_layers_is_the_handle() {
    let factum = bank().await;
    let commands = CommandBus::new(factum.clone());
    let done = commands.execute(&Account::id("1"), Withdraw { cents: 30 }).await.unwrap();
    assert_eq!((done.events.len(), money(&factum, "1").await), (1, 70));
    let refused = commands.execute(&Account::id("1"), Withdraw { cents: 71 }).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refusal::InsufficientFunds));
    let failed = commands.execute(&Account::id(""), Withdraw { cents: 1 }).await.unwrap_err();
    assert!(matches!(failed, Rejected::Store(Error::InvalidInput { .. })), "{failed}");
}

#[tokio::test]
async fn layers_let_pass_what_is_valid_and_allowed() {
    let factum = bank().await;
    let commands = CommandBus::new(factum.clone()).with(Authorisation).with(Validation);
    let ada = commands.by(ADA);
    ada.execute(&Account::id("1"), Pay { cents: 30 }).await.unwrap();
    let history = factum.history(&Account::id("1")).await.unwrap();
    assert_eq!(history[1].record.metadata.actor().as_deref(), Some("ada"));

    let foreign = ada.execute(&Account::id("3"), Pay { cents: 30 }).await.unwrap_err();
    assert_eq!(foreign.to_string(), "not allowed: only the owner pays");
    assert!(matches!(foreign, Rejected::Forbidden(_)));
    let invalid = ada.execute(&Account::id("1"), Pay { cents: -1 }).await.unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "`Pay` makes no sense: cents: pay at least one cent; cents: pay whole coins"
    );
    let Rejected::Invalid(invalid) = invalid else { panic!("{invalid}") };
    assert_eq!(invalid.problems.len(), 2);
    let both = ada.execute(&Account::id("3"), Pay { cents: -1 }).await.unwrap_err();
    assert!(matches!(both, Rejected::Forbidden(_)), "the first layer is the first that is asked: {both}");

    let decisions = CommandBus::new(factum.clone()).with(Authorisation).by(ADA);
    let transfer = |from: &str| Transfer { from: Account::id(from), to: Account::id("2"), cents: 10 };
    assert_eq!(decisions.decide(transfer("1")).await.unwrap().events.len(), 2);
    assert!(matches!(decisions.decide(transfer("3")).await, Err(Rejected::Forbidden(_))));
    assert_eq!(
        (money(&factum, "1").await, money(&factum, "2").await, money(&factum, "3").await),
        (60, 110, 100)
    );
}

#[tokio::test]
async fn every_command_has_an_id_where_a_layer_asks_for_it() {
    let factum = bank().await;
    let commands = CommandBus::new(factum.clone()).with(Idempotency);
    let account = Account::id("1");
    let without = commands.execute(&account, Pay { cents: 30 }).await.unwrap_err();
    assert!(without.to_string().contains("send it with `identified(…)`"), "{without}");
    let first = commands.identified("k").execute(&account, Pay { cents: 30 }).await.unwrap();
    let again = commands.identified("k").execute(&account, Pay { cents: 30 }).await.unwrap();
    assert_eq!((first.repeated, again.repeated, money(&factum, "1").await), (false, true, 70));
    let other = commands.identified("k").execute(&account, Pay { cents: 31 }).await.unwrap_err();
    assert!(matches!(other, Rejected::Store(Error::InvalidInput { .. })), "{other}");
    // Queries have none, and need none.
    let queries = QueryBus::new((bus::on(|_: NameOfTheBank| async { Ok("factum") }),)).with(Idempotency);
    assert_eq!(queries.ask(NameOfTheBank).await.unwrap(), "factum");
}

#[tokio::test]
async fn layers_are_met_in_the_order_in_which_they_are_given() {
    let outer = Notes { name: "outer", ..Notes::default() };
    let inner = Notes { name: "inner", ..outer.clone() };
    let commands = CommandBus::new(bank().await).with(outer.clone()).with(inner).with(Validation);
    let _ = commands.execute(&Account::id("1"), Pay { cents: 5 }).await.unwrap();
    let _ = commands.execute(&Account::id("1"), Pay { cents: 500 }).await.unwrap_err();
    let seen = std::mem::take(&mut *outer.seen.lock().unwrap());
    let once = |outcome: &str| {
        [
            "outer > Pay".to_owned(),
            "inner > Pay".into(),
            format!("inner < {outcome}"),
            format!("outer < {outcome}"),
        ]
    };
    assert_eq!(seen, [once("done"), once("InsufficientFunds")].concat());

    let closed = CommandBus::new(bank().await).with(outer.clone()).with(Closed);
    let stopped = closed.execute(&Account::id("1"), Pay { cents: 5 }).await.unwrap_err();
    assert_eq!(stopped.to_string(), "no Command on Sundays");
    assert_eq!(outer.seen.lock().unwrap().len(), 2);
}

/// As from a web server's handlers: the buses are shared, and their futures go from thread to thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buses_are_shared_by_tasks() {
    let factum = bank().await;
    let balances = factum.project(Balances, MemoryReads::new()).await.unwrap();
    let commands = CommandBus::new(factum).with(bus::Tracing).with(Authorisation).with(Validation);
    let queries = QueryBus::new((balances.clone(),)).with(bus::Tracing).with(Authorisation);
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (commands, queries, balances) = (commands.by(ADA), queries.by(ADA), balances.clone());
            tokio::spawn(async move {
                let (key, account) = (n / 2, Account::id("1"));
                let done = commands.identified(key).execute(&account, Pay { cents: 5 }).await.unwrap();
                balances.wait_for(&done).await.unwrap();
                queries.ask(BalanceOf("1")).await.unwrap().unwrap()
            })
        })
        .collect();
    let mut least = 100;
    for task in tasks {
        least = least.min(task.await.unwrap());
    }
    assert_eq!(least, 50, "each of ten payments is done once");
}

/// Read models, and whatever else answers queries, as one's own struct.
struct ReadSide {
    balances: Projected<Balances>,
    bank: &'static str,
}

impl bus::Query<ReadSide> for NameOfTheBank {
    type Result = String;

    async fn answer(&self, reads: &ReadSide) -> factum::Result<String> {
        let customers = reads.balances.all().await?.len();
        Ok(format!("{} with {customers} accounts", reads.bank))
    }
}

#[tokio::test]
async fn queries_find_who_answers_them() {
    let factum = bank().await;
    let balances = factum.project(Balances, MemoryReads::new()).await.unwrap();
    balances.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    assert_eq!(balances.query(BalanceOf("1")).await.unwrap(), Some(100));
    assert_eq!(QueryBus::new(balances.clone()).ask(Total).await.unwrap(), 300);

    let name = bus::on(|_: NameOfTheBank| async { Ok("factum") });
    let side = ReadSide { balances: balances.clone(), bank: "mutcaf" };
    assert_eq!(QueryBus::new(side).ask(NameOfTheBank).await.unwrap(), "mutcaf with 3 accounts");
    let queries = QueryBus::new((name, balances.clone()));
    assert_eq!(queries.ask(NameOfTheBank).await.unwrap(), "factum");
    assert_eq!(queries.ask(Total).await.unwrap(), 300);
    assert_eq!(queries.ask(BalanceOf("4")).await.unwrap(), None);

    let allowed = queries.with(Authorisation);
    assert_eq!(allowed.ask(NameOfTheBank).await.unwrap(), "factum");
    let ada = allowed.by(ADA);
    assert_eq!(ada.ask(BalanceOf("1")).await.unwrap(), Some(100));
    let foreign = ada.ask(BalanceOf("3")).await.unwrap_err();
    assert_eq!(foreign.to_string(), "not allowed: not your account");

    balances.stop().await;
    let failing = QueryBus::new((bus::on(|_: NameOfTheBank| async {
        Err::<(), _>(Error::NotFound { what: "bank".into() })
    }),));
    assert!(matches!(failing.ask(NameOfTheBank).await, Err(Rejected::Store(Error::NotFound { .. }))));
}

/// A subscriber of `tracing` that writes down spans and events, for each thread by itself: it is there for all tests of this file,
/// since whether a span is wanted at all is decided once for all threads.
struct Log;

#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    /// Each span with its line and what it is.
    spans: Vec<(span::Id, usize, &'static tracing::Metadata<'static>)>,
    entered: Vec<span::Id>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Ids of spans, none twice on whatever thread.
static SPANS: AtomicU64 = AtomicU64::new(1);

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        *self.0 += &format!(" {field}={value:?}");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("factum")
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut text = format!("{} {}", span.metadata().level(), span.metadata().name());
        span.record(&mut Fields(&mut text));
        let id = span::Id::from_u64(SPANS.fetch_add(1, Ordering::Relaxed));
        SEEN.with_borrow_mut(|seen| {
            seen.spans.push((id.clone(), seen.lines.len(), span.metadata()));
            seen.lines.push(text);
        });
        id
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        SEEN.with_borrow_mut(|seen| {
            if let Some((_, line, _)) = seen.spans.iter().find(|(id, ..)| id == span) {
                values.record(&mut Fields(&mut seen.lines[*line]));
            }
        });
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = format!("{}", event.metadata().level());
        event.record(&mut Fields(&mut text));
        SEEN.with_borrow_mut(|seen| seen.lines.push(text));
    }

    fn enter(&self, span: &span::Id) {
        SEEN.with_borrow_mut(|seen| seen.entered.push(span.clone()));
    }

    fn exit(&self, _: &span::Id) {
        SEEN.with_borrow_mut(|seen| seen.entered.pop());
    }

    fn current_span(&self) -> tracing_core::span::Current {
        SEEN.with_borrow(|seen| {
            let known = seen.spans.iter().find(|(id, ..)| Some(id) == seen.entered.last());
            known.map_or_else(tracing_core::span::Current::none, |(id, _, metadata)| {
                tracing_core::span::Current::new(id.clone(), metadata)
            })
        })
    }
}

#[tokio::test]
async fn each_message_has_a_span() {
    tracing::subscriber::set_global_default(Log).unwrap();
    let (store, factum) = (Meddled::default(), |store: &Meddled| Factum::new(store.clone()));
    let factum = factum(&store);
    let account = Account::id("1");
    let _ = factum.execute(&account, Open { cents: 100 }).await.unwrap();
    let commands = CommandBus::new(factum.clone()).with(bus::Tracing).with(Validation);
    let intruder = factum::codec::encode(&Deposited { cents: 1 }).unwrap();
    store.after_read.lock().unwrap().push_back(factum::Append::to(account.stream().unwrap(), [intruder]));
    commands.execute(&account, Pay { cents: 5 }).await.unwrap();
    commands.identified("k").execute(&account, Pay { cents: 500 }).await.unwrap_err();
    commands.execute(&account, Pay { cents: 0 }).await.unwrap_err();
    let queries = QueryBus::new((bus::on(|_: NameOfTheBank| async { Ok(()) }),)).with(bus::Tracing);
    queries.ask(NameOfTheBank).await.unwrap();
    let seen = SEEN.with_borrow(|seen| seen.lines.join("\n"));
    let expected = "\
INFO command message=\"Pay\" target_id=\"1\" attempts=2 repeated=false outcome=\"done\"
DEBUG message=somebody else was quicker; it is decided again attempts=1 conflict=stream `account-1` was expected at revision 0, but it is at revision 1
INFO command message=\"Pay\" target_id=\"1\" command_id=\"k\" outcome=\"refused\"
DEBUG message=Pay was not done reason=InsufficientFunds
INFO command message=\"Pay\" target_id=\"1\" outcome=\"invalid\"
DEBUG message=Pay was not done reason=`Pay` makes no sense: cents: pay at least one cent
INFO query message=\"NameOfTheBank\" outcome=\"done\"";
    assert_eq!(seen, expected, "\n{seen}");
}
