//! Queries, and what answers them.

use std::{fmt, future::Future, pin::Pin};

use crate::{
    error::Result,
    projection::{Projected, Projection},
};

/// A question to a read model, or to anything else that can answer it: `H`.
///
/// As a [`Command`](crate::Command) is decided on an aggregate, a query is answered from a read model:
///
/// ```
/// # use factum::{bus, prelude::*};
/// # #[derive(Serialize, Deserialize)] enum AccountEvent { Deposited { cents: i64 } }
/// # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
/// # struct Balances; impl Projection for Balances { const NAME: &'static str = "balances"; type Event = AccountEvent; type Row = i64;
/// #   fn evolve(&self, row: Option<i64>, e: &Recorded<AccountEvent>) -> Option<i64> { let AccountEvent::Deposited { cents } = &e.event; Some(row.unwrap_or(0) + cents) } }
/// struct BalanceOf { account: String }
///
/// impl bus::Query<Projected<Balances>> for BalanceOf {
///     type Result = Option<i64>;
///
///     async fn answer(&self, balances: &Projected<Balances>) -> factum::Result<Option<i64>> {
///         balances.get(&self.account).await
///     }
/// }
///
/// # async fn example(balances: Projected<Balances>) -> factum::Result<()> {
/// let cents = balances.query(BalanceOf { account: "17".into() }).await?;
/// # Ok(()) }
/// ```
///
/// `H` is a [`Projected`], an `SqlProjected`, or a struct of yours that holds several of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no query that `{H}` answers",
    note = "write `impl bus::Query<{H}> for {Self}`"
)]
pub trait Query<H>: Send + Sync {
    /// The answer.
    type Result: Send;

    /// Looks it up.
    ///
    /// # Errors
    /// Those of the read model.
    fn answer(&self, from: &H) -> impl Future<Output = Result<Self::Result>> + Send;
}

impl<P: Projection> Projected<P> {
    /// Asks this read model, without a bus.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn query<Q: Query<Self>>(&self, query: Q) -> Result<Q::Result> {
        query.answer(self).await
    }
}

/// What can answer a query: whatever the query names in its [`Query`], a closure made by [`on`], or a tuple of such. `Via` says which
/// of them does; nobody writes it.
#[diagnostic::on_unimplemented(
    message = "nothing on this query bus answers `{Q}`",
    label = "`{Self}` has no answer to it",
    note = "write `impl bus::Query<…> for {Q}` for one of the handlers that the bus was made with, or give it one: `bus::on(|query: {Q}| …)`"
)]
pub trait Answers<Q, Via>: Send + Sync {
    /// The answer.
    type Result: Send;

    /// Answers.
    ///
    /// # Errors
    /// Those of the handler.
    fn answer(&self, query: &Q) -> impl Future<Output = Result<Self::Result>> + Send;
}

/// The handler answers itself.
#[derive(Debug)]
pub struct Itself;

/// The handler at this place of a tuple answers.
#[derive(Debug)]
pub struct At<const PLACE: usize, Via>(Via);

/// A closure answers.
#[derive(Debug)]
pub struct ByClosure;

impl<Q: Query<H>, H: Send + Sync> Answers<Q, Itself> for H {
    type Result = Q::Result;

    async fn answer(&self, query: &Q) -> Result<Q::Result> {
        query.answer(self).await
    }
}

type Answering<R> = Pin<Box<dyn Future<Output = Result<R>> + Send>>;

/// A closure that answers the queries `Q`: see [`on`].
pub struct On<Q, R> {
    answer: Box<dyn Fn(Q) -> Answering<R> + Send + Sync>,
}

impl<Q, R> fmt::Debug for On<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("On").finish_non_exhaustive()
    }
}

/// Lets a closure answer a query, which can then be any struct that is `Clone`:
/// `QueryBus::new((balances, bus::on(|_: Now| async { Ok(Timestamp(0)) })))`.
pub fn on<Q, R, F>(answer: impl Fn(Q) -> F + Send + Sync + 'static) -> On<Q, R>
where
    F: Future<Output = Result<R>> + Send + 'static,
{
    On { answer: Box::new(move |query| Box::pin(answer(query))) }
}

impl<Q: Clone + Send + Sync, R: Send> Answers<Q, ByClosure> for On<Q, R> {
    type Result = R;

    async fn answer(&self, query: &Q) -> Result<R> {
        (self.answer)(query.clone()).await
    }
}

macro_rules! tuple_of_handlers {
    ($all:tt $($handler:ident $place:tt),*) => {
        $(tuple_of_handlers!(@one $all $handler $place);)*
    };
    (@one ($($all:ident),*) $handler:ident $place:tt) => {
        #[diagnostic::do_not_recommend]
        impl<Q: Send + Sync, Via, $($all: Send + Sync),*> Answers<Q, At<$place, Via>> for ($($all,)*)
        where
            $handler: Answers<Q, Via>,
        {
            type Result = $handler::Result;

            async fn answer(&self, query: &Q) -> Result<Self::Result> {
                self.$place.answer(query).await
            }
        }
    };
}
tuple_of_handlers!((A) A 0);
tuple_of_handlers!((A, B) A 0, B 1);
tuple_of_handlers!((A, B, C) A 0, B 1, C 2);
tuple_of_handlers!((A, B, C, D) A 0, B 1, C 2, D 3);
tuple_of_handlers!((A, B, C, D, E) A 0, B 1, C 2, D 3, E 4);
tuple_of_handlers!((A, B, C, D, E, F) A 0, B 1, C 2, D 3, E 4, F 5);
tuple_of_handlers!((A, B, C, D, E, F, G) A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple_of_handlers!((A, B, C, D, E, F, G, H) A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
