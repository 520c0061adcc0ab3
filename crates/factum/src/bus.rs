//! Two buses: commands go in through one, queries through the other, and middleware lies around both.
//!
//! Commands and queries are plain structs. Nothing is registered by name: the rule of a command is its `impl Command`, the answer to
//! a query its `impl bus::Query`, and what nobody handles does not compile. Nor does a command without a rule for who may send it,
//! on a bus with [`Authorisation`].
//!
//! ```
//! # use factum::prelude::*;
//! use factum::bus::{self, Authorisation, CommandBus, Forbidden, QueryBus, Validation, allow_if};
//! # #[derive(Serialize, Deserialize)] enum AccountEvent { Deposited { cents: i64 } }
//! # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
//! # #[derive(Default)] struct Account; impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
//! # struct Balances; impl Projection for Balances { const NAME: &'static str = "balances"; type Event = AccountEvent; type Row = i64;
//! #   fn evolve(&self, row: Option<i64>, e: &Recorded<AccountEvent>) -> Option<i64> { let AccountEvent::Deposited { cents } = &e.event; Some(row.unwrap_or(0) + cents) } }
//!
//! struct Deposit { cents: i64 }                                  // a command, and its rule
//! impl Command<Account> for Deposit {
//!     type Error = std::convert::Infallible;
//!     fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> {
//!         Ok(vec![AccountEvent::Deposited { cents: self.cents }])
//!     }
//! }
//!
//! struct BalanceOf { account: String }                           // a query, and the read model that answers it
//! impl bus::Query<Projected<Balances>> for BalanceOf {
//!     type Result = Option<i64>;
//!     async fn answer(&self, balances: &Projected<Balances>) -> factum::Result<Option<i64>> {
//!         balances.get(&self.account).await
//!     }
//! }
//!
//! struct Teller { name: String, may_deposit: bool }              // who sends them
//! impl bus::Principal for Teller {
//!     fn actor(&self) -> String { self.name.clone() }
//! }
//! impl bus::Authorise<Teller> for Deposit {
//!     fn authorise(&self, teller: &Teller, _account: &str) -> Result<(), Forbidden> {
//!         allow_if(teller.may_deposit, "only the counter takes deposits")
//!     }
//! }
//! impl bus::Validate for Deposit {
//!     fn validate(&self, check: &mut bus::Checks) {
//!         check.that(self.cents > 0, "cents", "deposit at least one cent");
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let factum = Factum::new(factum::MemoryStore::new());
//! let balances = factum.project(Balances, factum::MemoryReads::new()).await?;
//! let commands = CommandBus::new(factum).with(bus::Tracing).with(Authorisation).with(Validation);
//! let queries = QueryBus::new(balances.clone()).with(bus::Tracing);
//!
//! let ada = Teller { name: "ada".into(), may_deposit: true };
//! let done = commands.by(ada).execute(&Account::id("17"), Deposit { cents: 100 }).await?;
//! balances.wait_for(&done).await?;
//! assert_eq!(queries.ask(BalanceOf { account: "17".into() }).await?, Some(100));
//! # Ok(()) }
//! ```
//!
//! Several read models, and closures, are given as a tuple: `QueryBus::new((balances, turnover, bus::on(|_: TimeOfDay| async { … })))`.
//! A query that nobody answers does not compile:
//!
//! ```compile_fail,E0277
//! # use factum::{bus::{self, QueryBus}, prelude::*};
//! # #[derive(Clone)] struct TimeOfDay;
//! struct Unheard;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let queries = QueryBus::new((bus::on(|_: TimeOfDay| async { Ok("noon") }),));
//! queries.ask(TimeOfDay).await?;
//! queries.ask(Unheard).await?;             // nothing on this query bus answers `Unheard`
//! # Ok(()) }
//! ```
//!
//! For those who come from elsewhere: a `Command` with its `impl` is a command with its handler in NestJS CQRS or MediatR, and what
//! Axon calls a command handling aggregate; [`Layer`] is an interceptor, or a pipeline behaviour; a saga or an event handler is a
//! [`Consumer`](crate::Consumer) that sends commands, [`caused_by`](crate::Factum::caused_by) what it saw and
//! [`identified`](crate::Factum::identified) by its id.

mod layers;
mod query;

use std::{convert::Infallible, fmt, sync::Arc};

use serde::Serialize;

pub use self::{
    layers::{
        Authorisation, Authorise, Checks, Forbidden, Idempotency, Invalid, Layer, Rest, Then, Tracing,
        Validate, Validation, allow_if,
    },
    query::{Answers, At, ByClosure, Itself, On, Query, on},
};
use crate::{
    aggregate::{Aggregate, Command, Id},
    decision::Decide,
    error::{Error, Result},
    handle::{Done, Factum, Failure, OfOne},
    idempotency::{Identified, Identity, short_name},
};

/// Who sends commands and asks queries: an account of yours, a service. What it may do is said by [`Authorise`].
pub trait Principal: Send + Sync + 'static {
    /// What the metadata of the events says of who did it.
    fn actor(&self) -> String;
}

/// Nobody in particular: who it is before [`CommandBus::by`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anyone;

/// A command or a query on its way, as a [`Layer`] sees it.
#[derive(Debug)]
pub struct Call<'a, M, P> {
    /// The command or query.
    pub message: &'a M,
    /// Who sends it.
    pub principal: &'a P,
    /// Which of the two it is.
    pub kind: Kind,
    /// The id of the aggregate that the command is for. Empty for decisions and queries, which say themselves what they are about.
    pub target: &'a str,
    /// The command's own id, if it is [identified](CommandBus::identified).
    pub command_id: Option<&'a str>,
}

impl<M, P> Clone for Call<'_, M, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, P> Copy for Call<'_, M, P> {}

impl<M, P> Call<'_, M, P> {
    /// The name of its type: `Withdraw`.
    pub fn name(&self) -> &'static str {
        short_name::<M>()
    }
}

/// What goes over a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command, or a decision.
    Command,
    /// A query.
    Query,
}

/// Why a command was not done, or a query not answered. Of a query nothing is `Refused`.
#[derive(Debug, thiserror::Error)]
pub enum Rejected<E = Infallible> {
    /// It makes no sense, whoever sends it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Not for whoever sent it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The domain's rules refuse it. Nothing was recorded.
    #[error("{0}")]
    Refused(E),
    /// The store failed, or others were quicker each time.
    #[error(transparent)]
    Store(#[from] Error),
    /// A layer of your own stopped it.
    #[error("{0}")]
    Stopped(Box<dyn std::error::Error + Send + Sync>),
}

impl<E> From<Failure<E>> for Rejected<E> {
    fn from(failure: Failure<E>) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Store(error) => Self::Store(error),
        }
    }
}

impl<E> Rejected<E> {
    /// The domain's refusal, if it is one.
    pub fn refusal(&self) -> Option<&E> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Where commands go in. Cloning is cheap.
pub struct CommandBus<L = (), P = Anyone> {
    factum: Factum,
    layers: Arc<L>,
    principal: Arc<P>,
}

impl CommandBus {
    /// A bus without middleware.
    pub fn new(factum: Factum) -> Self {
        Self { factum, layers: Arc::new(()), principal: Arc::new(Anyone) }
    }
}

impl<L, P> Clone for CommandBus<L, P> {
    fn clone(&self) -> Self {
        let Self { factum, layers, principal } = self;
        Self { factum: factum.clone(), layers: layers.clone(), principal: principal.clone() }
    }
}

impl<L, P> fmt::Debug for CommandBus<L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandBus").field("factum", &self.factum).finish_non_exhaustive()
    }
}

impl<L, P> CommandBus<L, P> {
    /// The same bus with one more layer, inside of those that it has: the first that was given is the first that a command meets.
    pub fn with<N>(self, layer: N) -> CommandBus<Then<L, N>, P> {
        let Self { factum, layers, principal } = self;
        CommandBus { factum, layers: Arc::new(Then { outer: layers, inner: layer }), principal }
    }

    /// The same bus for the commands of this principal. What they record says so.
    pub fn by<Q: Principal>(&self, principal: Q) -> CommandBus<L, Q> {
        let factum = self.factum.acting_as(principal.actor());
        CommandBus { factum, layers: self.layers.clone(), principal: Arc::new(principal) }
    }

    /// The same bus for one flow of work: see [`Factum::correlated`] and [`Factum::caused_by`].
    #[must_use]
    pub fn within(&self, flow: impl FnOnce(&Factum) -> Factum) -> Self {
        Self { factum: flow(&self.factum), ..self.clone() }
    }

    /// The same bus for the one command with this id, which is done once however often it is sent: see [`Factum::identified`].
    pub fn identified(&self, command_id: impl fmt::Display) -> Identified<Self> {
        Identified { handle: self.clone(), command_id: command_id.to_string() }
    }

    /// Sends a command for one aggregate: [`Factum::execute`], within the layers.
    ///
    /// # Errors
    /// [`Rejected`], by a layer, by the domain, or by the store.
    pub async fn execute<A, C>(&self, id: &Id<A>, command: C) -> Result<Done, Rejected<C::Error>>
    where
        A: Aggregate,
        C: Command<A>,
        L: Layer<C, P>,
        P: Send + Sync,
    {
        self.send(&command, id.as_str(), &OfOne { id, command: &command }, None).await
    }

    /// Sends a decision over several things: [`Factum::decide`], within the layers.
    ///
    /// # Errors
    /// [`Rejected`], by a layer, by the domain, or by the store.
    pub async fn decide<D>(&self, decision: D) -> Result<Done, Rejected<D::Error>>
    where
        D: Decide,
        L: Layer<D, P>,
        P: Send + Sync,
    {
        self.send(&decision, "", &decision, None).await
    }

    async fn send<M, D>(
        &self,
        message: &M,
        target: &str,
        decision: &D,
        identity: Option<Result<Identity>>,
    ) -> Result<Done, Rejected<D::Error>>
    where
        M: Sync,
        D: Decide,
        L: Layer<M, P>,
        P: Send + Sync,
    {
        let identity = identity.transpose()?;
        let (principal, command_id) = (&*self.principal, identity.as_ref().map(Identity::id));
        let call = Call { message, principal, kind: Kind::Command, target, command_id };
        let work = async {
            let done = self.factum.take(decision, identity.as_ref()).await?;
            layers::note(&done);
            Ok(done)
        };
        self.layers.around(call, work).await
    }
}

impl<L, P> Identified<CommandBus<L, P>> {
    /// As [`CommandBus::execute`], once.
    ///
    /// # Errors
    /// [`Rejected`], by a layer, by the domain, or by the store; [`Error::InvalidInput`] if the id is that of another command.
    pub async fn execute<A, C>(&self, id: &Id<A>, command: C) -> Result<Done, Rejected<C::Error>>
    where
        A: Aggregate,
        C: Command<A> + Serialize,
        L: Layer<C, P>,
        P: Send + Sync,
    {
        let identity = id.stream().and_then(|stream| Identity::of(&self.command_id, Some(stream), &command));
        let one = OfOne { id, command: &command };
        self.handle.send(&command, id.as_str(), &one, Some(identity)).await
    }

    /// As [`CommandBus::decide`], once.
    ///
    /// # Errors
    /// [`Rejected`], by a layer, by the domain, or by the store; [`Error::InvalidInput`] if the id is that of another command.
    pub async fn decide<D>(&self, decision: D) -> Result<Done, Rejected<D::Error>>
    where
        D: Decide + Serialize,
        L: Layer<D, P>,
        P: Send + Sync,
    {
        let identity = Identity::of(&self.command_id, None, &decision);
        self.handle.send(&decision, "", &decision, Some(identity)).await
    }
}

/// Where queries are asked. `H` is what answers them: a read model, a struct of yours, or a tuple of these and of closures
/// ([`on`]). Cloning is cheap.
pub struct QueryBus<H, L = (), P = Anyone> {
    handlers: Arc<H>,
    layers: Arc<L>,
    principal: Arc<P>,
}

impl<H> QueryBus<H> {
    /// A bus without middleware.
    pub fn new(handlers: H) -> Self {
        Self { handlers: Arc::new(handlers), layers: Arc::new(()), principal: Arc::new(Anyone) }
    }
}

impl<H, L, P> Clone for QueryBus<H, L, P> {
    fn clone(&self) -> Self {
        let Self { handlers, layers, principal } = self;
        Self { handlers: handlers.clone(), layers: layers.clone(), principal: principal.clone() }
    }
}

impl<H, L, P> fmt::Debug for QueryBus<H, L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryBus").finish_non_exhaustive()
    }
}

impl<H, L, P> QueryBus<H, L, P> {
    /// The same bus with one more layer, inside of those that it has.
    pub fn with<N>(self, layer: N) -> QueryBus<H, Then<L, N>, P> {
        let Self { handlers, layers, principal } = self;
        QueryBus { handlers, layers: Arc::new(Then { outer: layers, inner: layer }), principal }
    }

    /// The same bus for the queries of this principal.
    pub fn by<Q: Principal>(&self, principal: Q) -> QueryBus<H, L, Q> {
        let (handlers, layers) = (self.handlers.clone(), self.layers.clone());
        QueryBus { handlers, layers, principal: Arc::new(principal) }
    }

    /// Asks. Which of the handlers answers is known when it is compiled.
    ///
    /// # Errors
    /// [`Rejected`], by a layer or by what answers.
    pub async fn ask<Q, Via>(&self, query: Q) -> Result<H::Result, Rejected>
    where
        Q: Send + Sync,
        H: Answers<Q, Via>,
        L: Layer<Q, P>,
        P: Send + Sync,
    {
        let (message, principal) = (&query, &*self.principal);
        let call = Call { message, principal, kind: Kind::Query, target: "", command_id: None };
        let work = async { Ok(Answers::<Q, Via>::answer(&*self.handlers, message).await?) };
        self.layers.around(call, work).await
    }
}
